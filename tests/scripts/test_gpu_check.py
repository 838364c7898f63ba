"""scripts/gpu_check.py on a CPU with tiny sizes: every row passes, and what fails is said by the exit code."""

import importlib.util
import json

import pytest
import torch
from bench.bridge_ways import IMAGE, model_config
from gpu import bridge_attention
from gpu.bridge import SMOKE, reached
from gpu.check import Check
from gpu.run import run
from gpu.settings import PARTS, GpuCheck
from torch.nn.attention.flex_attention import create_mask

from bridge.data.packing import attention_mask, make_batch
from vlm.errors import UserError


def test_the_parts_that_need_no_command_run_on_a_cpu(tmp_path, capsys):
    parts = ("ceilings", "sigreg", "step", "pretrain")
    run(GpuCheck(out=str(tmp_path), device="cpu", smoke=True, parts=parts))
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert set(found) == {"machine", "seconds", *parts} and set(found["seconds"]) == set(parts)
    assert found["sigreg"]["64x16"]["passed"] and found["sigreg"]["64x16"]["same_twice"]
    assert [row["passed"] for row in found["step"].values()] == [True] * 5
    assert found["step"]["bfloat16"]["gradient_error"] > found["step"]["float32"]["gradient_error"]
    assert found["pretrain"]["batch 32 in micro-batches of 8"]["images_per_s"] > 0
    assert not any("mfu" in row for row in found["pretrain"].values())  # of tiny sizes it says nothing
    assert capsys.readouterr().out.endswith("all checks passed\n")


def test_the_bridges_part_runs_every_way_on_a_cpu(tmp_path):
    run(GpuCheck(out=str(tmp_path), device="cpu", smoke=True, parts=("bridge",)))
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["bridge"]
    assert {name for name, row in rows.items() if "passed" in row} == {
        "8 ranks, simulated",
        "float32 against one question a sequence",
    }
    assert rows["8 ranks, simulated"]["speed_up"] == pytest.approx(7.70, abs=0.01)
    assert rows["float32 against one question a sequence"]["gradient_error"] < 1e-5
    ways = ("bridge", "one conversation an image (LLaVA-1.5)", "one question a sequence")
    assert [rows[f"gqa, {way}"]["questions"] for way in ways] == [39, 39, 13]
    assert [rows[f"vqav2, {way}"]["questions"] for way in ways] == [32, 32, 5]
    assert rows["gqa, bridge over one question a sequence"]["ratio"] > 1
    assert not any("mfu" in row for row in rows.values())
    assert rows["layer, dense mask, widths a multiple of 16"]["shape"] == "3 x 480 x 496"
    assert rows["layer, dense mask, widths as they come"]["differs_by"] < 1e-2
    assert rows["layer, block mask, FlexAttention"] == {"skipped": "its backward pass is for CUDA alone"}
    if importlib.util.find_spec("bitsandbytes"):
        assert rows["4 bits"]["layers"] == 14  # 7 products in each of 2 layers
    else:
        assert "scripts/gpu_wheels.sh" in rows["4 bits"]["skipped"]


def test_flex_attention_gets_the_mask_of_training():
    rows = bridge_attention.micro_batch((13, 5, 13), model_config(2, *SMOKE))
    batch = make_batch(rows, IMAGE, 16)
    count, width = batch.ids.shape
    found = create_mask(bridge_attention.seen(batch, 16), count, None, width, 16 + width, device="cpu")
    assert torch.equal(found, attention_mask(batch.ends, 16, torch.float32, batch.opening_seen) == 0)


def test_the_goal_is_for_its_own_device():
    assert reached("NVIDIA H100 80GB HBM3", 0.41, 1970) is True
    assert reached("NVIDIA H100 80GB HBM3", 0.39, 1970) is False and reached("NVIDIA A100-SXM4-80GB", 0.2, 900) is None


def test_a_failing_part_leaves_the_others_and_exits_with_1(tmp_path, monkeypatch):
    def broken(check: Check) -> None:
        check.note("sigreg", "64x16", False, value_error=1.0)
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    monkeypatch.setattr("gpu.sigreg.measure", broken)
    with pytest.raises(SystemExit) as end:
        run(GpuCheck(out=str(tmp_path), device="cpu", smoke=True, parts=("sigreg", "ceilings")))
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert end.value.code == 1 and "copy" in found["ceilings"]
    assert found["sigreg"]["failed"]["error"] == "RuntimeError: CUDA error: an illegal memory access"


def test_earlier_rows_stay_but_for_the_parts_run_now(tmp_path, monkeypatch):
    def check(part: str, passed: bool, **changes) -> dict:
        monkeypatch.setattr(f"gpu.{part}.measure", lambda check: check.note(part, "row", passed))
        run(GpuCheck(**{"out": str(tmp_path), "device": "cpu", "smoke": True, "parts": (part,)} | changes))
        return json.loads((tmp_path / "gpu_check.json").read_text())

    with pytest.raises(SystemExit):
        check("sigreg", False)
    both = check("host", True)  # passes: it is judged by its own rows
    assert (both["sigreg"], both["host"]) == ({"row": {"passed": False}}, {"row": {"passed": True}})
    assert set(both["seconds"]) == {"sigreg", "host"}
    assert check("sigreg", True)["sigreg"] == {"row": {"passed": True}}
    assert check("sigreg", True, minutes=1e-9)["sigreg"] == {"row": {"passed": True}}  # there was no time for it
    with pytest.raises(
        UserError, match=r"is of \{'CPU': .*'smoke': True\}\}, this is \{'CPU': .*'smoke': False\}\}: give"
    ):
        check("sigreg", True, smoke=False)
    assert set(check("host", True)) == {"machine", "seconds", "sigreg", "host"}


def test_no_part_is_begun_when_the_time_is_over(tmp_path):
    run(GpuCheck(out=str(tmp_path), device="cpu", smoke=True, parts=PARTS, minutes=1e-9))
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert all("left out" in found[part] for part in PARTS)


def test_a_gpu_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="there is no CUDA device here: --smoke --device cpu tries the script"):
        run(GpuCheck(out=str(tmp_path)))
    with pytest.raises(UserError, match="--device gpu: this is no device; give cpu, cuda or mps"):
        run(GpuCheck(out=str(tmp_path), device="gpu"))
    assert not any(tmp_path.iterdir())
