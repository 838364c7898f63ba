"""scripts/gpu_check.py on a CPU with tiny sizes: every row passes, and what fails is said by the exit code."""

import json

import pytest
from gpu.check import Check
from gpu.run import run
from gpu.settings import PARTS, GpuCheck

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


def test_no_part_is_begun_when_the_time_is_over(tmp_path):
    run(GpuCheck(out=str(tmp_path), device="cpu", smoke=True, parts=PARTS, minutes=1e-9))
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert all("left out" in found[part] for part in PARTS)


def test_a_gpu_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="there is no CUDA device here: --smoke --device cpu tries the script"):
        run(GpuCheck(out=str(tmp_path)))
