"""The pretraining command as a user runs it: resume, two ranks, the exported encoder, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain.data.source import open_captions
from pretrain.probes.retrieval import caption_pool, retrieval_probe
from vlm.encoders.levljepa import load_encoder

ROOT = Path(__file__).parents[2]
SMALL = [
    "--image-size", "16", "--patch-size", "8", "--vision-width", "16", "--vision-layers", "1", "--vision-heads", "2",
    "--text-width", "16", "--text-layers", "1", "--text-heads", "2", "--embed-dim", "8", "--projector-width", "16",
    "--projector-depth", "2", "--directions", "32", "--batch-size", "8", "--tokenizer", "train:300", "--log-every", "1",
    "--warmup-steps", "2", "--dtype", "fp32",
]  # fmt: skip

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def pretrain(data, out, *flags, launcher=(sys.executable,), sizes=SMALL):
    command = [*launcher, "pretrain/run.py", "--data", str(data), "--out", str(out), *sizes, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records}


def checkpoints(run):
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


@pytest.fixture(scope="module")
def uninterrupted(captions, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "whole"
    result = pretrain(captions, run, "--steps", "8", "--save-every", "3")
    assert result.returncode == 0, result.stderr
    return run


def test_a_gpu_without_memory_is_one_line_and_the_last_checkpoint_goes_on(
    captions, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/scripts:{ROOT}")
    flags = ["--steps", "8", "--save-every", "3"]
    with monkeypatch.context() as full:
        full.setenv("FAULT", "0:5:step:memory")
        result = pretrain(captions, tmp_path, *flags, launcher=(sys.executable, "-m", "faults.injected"))
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if "memory" in line] == [
        "error: out of memory in step 5 of 8 (8 pairs on this process, all of them at a time) (CUDA out of memory. "
        "Tried to allocate 2.00 GiB): give --micro-batch-size 4 or more processes; the checkpoint of step 3 is whole, "
        "the same command goes on from there"
    ]
    assert "Traceback" not in result.stderr
    assert pretrain(captions, tmp_path, *flags, "--resume", "required").returncode == 0
    assert losses(tmp_path) == losses(uninterrupted)


def test_a_run_leaves_what_it_promises(uninterrupted):
    assert sorted(losses(uninterrupted)) == list(range(8))
    assert json.loads((uninterrupted / "config.json").read_text())["batch_size"] == 8
    assert checkpoints(uninterrupted) == [6, 8]
    encoder = load_encoder(uninterrupted / "encoder")
    pixels = encoder.transform(Image.new("RGB", (20, 16), "red"))[None]
    with torch.no_grad():
        assert encoder.patch_tokens(pixels).shape == (1, 4, 16)
        assert encoder.predict_image(encoder.embed_texts(["a red picture"])).shape == (1, 8)


def test_a_run_goes_on_before_a_damaged_checkpoint_to_the_last_bit(captions, uninterrupted, tmp_path):
    run = tmp_path / "resumed"
    shutil.copytree(uninterrupted, run)
    weights = run / "checkpoints" / "step_8" / "state-00001-of-00001.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    (run / "metrics.jsonl").unlink()
    result = pretrain(captions, run, "--steps", "8", "--save-every", "3", "--resume", "required")
    assert result.returncode == 0, result.stderr
    assert f"passing over {weights.parent}: " in result.stderr
    assert f"resuming {run} at step 6 of 8" in result.stdout.splitlines()
    whole = losses(uninterrupted)
    assert losses(run) == {step: whole[step] for step in (6, 7)}
    for name in ("vision_encoder", "text_encoder"):
        file = f"encoder/{name}.safetensors"
        assert (run / file).read_bytes() == (uninterrupted / file).read_bytes()


def test_a_batch_without_a_finite_gradient_moves_nothing_on_any_rank(captions, tmp_path):
    """NaN pixels on rank 1 in steps 2 and 3 change neither weights nor what BatchNorm and AdamW keep."""
    command = [*TORCHRUN, "tests/pretrain/poisoned.py", tmp_path, "--data", captions, *SMALL, "--tracker", "none"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for stage in range(4):
        run = tmp_path / f"zero_{stage}"
        for rank in range(2):
            digests = (run / f"digests.{rank}").read_text().split()
            assert [a == b for a, b in pairwise(digests)] == [False, True, True, False, False], f"ZeRO {stage}"
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [record["skipped"] for record in records] == [0, 0, 1, 1, 0, 0]
        named = [record.get("samples", []) for record in records]
        assert [len(set(samples)) for samples in named] == [0, 0, 8, 8, 0, 0]  # of both ranks
        assert [record["loss"] is None for record in records] == [False, False, True, True, False, False]
        assert all(torch.isfinite(part).all() for part in load_encoder(run / "encoder").state_dict().values())
    assert "step 2: loss nan, nothing updated" in result.stderr
    for rank in range(2):
        message = (tmp_path / f"lost/error.{rank}").read_text()
        assert message == "no finite gradient for 5 steps up to step 8: lower --lr or raise --lambda-*"
    assert checkpoints(tmp_path / "lost") == [6, 8]


@pytest.fixture(scope="module")
def torchrun(captions, tmp_path_factory):
    run = tmp_path_factory.mktemp("torchrun") / "two"
    result = pretrain(captions, run, "--steps", "8", "--zero", "2", launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    return run


def test_two_ranks_equal_one_process(captions, uninterrupted, torchrun, tmp_path):
    result = pretrain(captions, tmp_path / "two", "--steps", "8", "--zero", "3", launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    whole = losses(uninterrupted)
    for two in (losses(torchrun), losses(tmp_path / "two")):
        assert two[0] == pytest.approx(whole[0], rel=1e-6)
        # AdamW's first steps follow the gradient's sign: a rounding error near zero grows to a whole step of a weight.
        assert two == pytest.approx(whole, rel=5e-4)


def test_the_deepspeed_launcher_equals_torchrun_to_the_last_bit(captions, torchrun, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    launcher = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", "2", "--master_port", "29613"]
    result = pretrain(captions, tmp_path / "two", "--steps", "8", "--zero", "2", launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "two") == losses(torchrun)


def test_sigterm_saves_the_step_and_a_folder_serves_one_run_at_a_time(captions, tmp_path):
    """The whole process group is told to stop, loaders included, as SLURM does."""
    command = [sys.executable, "pretrain/run.py", "--data", captions, "--out", tmp_path / "run", *SMALL]
    command += ["--steps", "100000", "--workers", "1", "--save-every", "100000"]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run/metrics.jsonl").exists() and first.poll() is None:
        time.sleep(0.1)
    second = pretrain(captions, tmp_path / "run")
    assert second.returncode == 2
    assert f"another run is writing to {tmp_path / 'run'} (process {first.pid} on " in second.stderr.splitlines()[-1]
    os.killpg(first.pid, signal.SIGTERM)
    errors = first.communicate(timeout=100)[1]
    assert first.returncode == 143, errors
    saved = len(losses(tmp_path / "run"))
    assert checkpoints(tmp_path / "run") == [saved]
    assert errors.splitlines()[-1] == f"terminated: step {saved} is saved, the same command goes on from there"


def probes(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {r["step"]: {name: r[name] for name in r if name.startswith("probe_")} for r in records}
    return {step: numbers for step, numbers in found.items() if numbers}


def test_probing_leaves_the_trajectory_as_it_was(captions, uninterrupted, tmp_path):
    run = tmp_path / "probed"
    result = pretrain(captions, run, "--steps", "8", "--probe-every", "4", "--probe-data", str(captions))
    assert result.returncode == 0, result.stderr
    assert losses(run) == losses(uninterrupted) and sorted(probes(run)) == [3, 7]
    expected = retrieval_probe(load_encoder(run / "encoder"), *caption_pool(open_captions(captions), 40))
    assert len(probes(run)[7]) == 6
    assert probes(run)[7] == pytest.approx({name: expected[name[6:]] for name in probes(run)[7]}, rel=1e-5)


def test_rank_0_probes_what_zero_3_has_spread(captions, uninterrupted, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29613"]
    flags = ["--steps", "8", "--zero", "3", "--probe-every", "4", "--probe-data", str(captions)]
    result = pretrain(captions, tmp_path / "run", *flags, launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(uninterrupted), rel=5e-4)
    expected = retrieval_probe(load_encoder(tmp_path / "run/encoder"), *caption_pool(open_captions(captions), 40))
    found = probes(tmp_path / "run")
    assert sorted(found) == [3, 7]
    assert found[7] == pytest.approx({name: expected[name[6:]] for name in found[7]}, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch-size", "64"), "the data holds 40 usable samples, a batch takes 64"),
        (("--resume", "required"), "--resume required, but"),
        (("--tokenizer", "nowhere.json"), "--tokenizer nowhere.json"),
        (("--probe-every", "5"), "--probe-every 5: give also --probe-data with captions that are not"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(captions, tmp_path, flags, message):
    result = pretrain(captions, tmp_path / "bad", *flags)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ") and message in result.stderr
    assert "Traceback" not in result.stderr


# Without --projector-depth and --directions, which these objectives do not read.
CONTRASTIVE = [*SMALL[: SMALL.index("--projector-depth")], *SMALL[SMALL.index("--batch-size") :]]


def test_learned_scalars_reach_the_encoder(captions, tmp_path):
    flags = ("--objective", "siglip", "--steps", "4")
    for name, more, launcher in (("whole", (), (sys.executable,)), ("two", ("--zero", "3"), TORCHRUN)):
        result = pretrain(captions, tmp_path / name, *flags, *more, sizes=CONTRASTIVE, launcher=launcher)
        assert result.returncode == 0, result.stderr
    whole = load_encoder(tmp_path / "whole" / "encoder").config
    assert 0 < abs(whole.logit_bias + 10) < 0.01 and 0 < abs(whole.logit_scale - 2.302585) < 0.01
    assert losses(tmp_path / "two")[0] == pytest.approx(losses(tmp_path / "whole")[0], rel=1e-6)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "whole"), rel=5e-4)
    assert load_encoder(tmp_path / "two" / "encoder").config.logit_bias == pytest.approx(whole.logit_bias, abs=1e-4)


def test_several_crops_reach_the_encoder(captions, tmp_path):
    flags = ("--objective", "levljepa-plus", "--steps", "2", "--warmup-steps", "1", "--micro-batch-size", "4")
    result = pretrain(captions, tmp_path / "plus", *flags)
    assert result.returncode == 0, result.stderr
    first, last = (json.loads(line) for line in (tmp_path / "plus" / "metrics.jsonl").read_text().splitlines())
    assert first["multi_view"] > 0 and last["multi_view"] != first["multi_view"]
    assert load_encoder(tmp_path / "plus" / "encoder").config.training["augmentation"] == "dino"
