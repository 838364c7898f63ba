"""The tiny run of every fault: data, flags, two resident ranks that train without a new launch, comparisons."""

import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faults.fault import Sweep, demand
from faults.resident import Resident
from vlm.files import read_jsonl
from vlm.run.folder import DONE
from vlm.run.steps import committed_steps

STEPS, SAVE_EVERY = 12, 2
TINY = (
    "--image-size 16 --patch-size 8 --vision-width 16 --vision-layers 1 --vision-heads 2 --text-width 16 "
    "--text-layers 1 --text-heads 2 --embed-dim 8 --projector-width 16 --projector-depth 2 --directions 32 "
    "--batch-size 8 --tokenizer train:300 --log-every 1 --tracker none"
)
FLAGS = f"{TINY} --warmup-steps 2 --steps {STEPS} --save-every {SAVE_EVERY} --workers 1 --dtype fp32".split()


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@cache
def captions(settings: Sweep) -> Path:
    """Forty small pictures of noise, each with its text."""
    folder = settings.shared / "captions"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        colour = random.integers(0, 200, 3)
        pixels = colour + random.integers(0, 50, (20, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(
            f"red {colour[0] // 50} green {colour[1] // 50} blue {colour[2] // 50}"
        )
    return folder


def flags(settings: Sweep, run: Path, stage: int) -> list[str]:
    """Of pretrain/run.py, for the tiny run into `run` at a stage of ZeRO."""
    return ["--data", str(captions(settings)), "--out", str(run), "--zero", str(stage), *FLAGS]


@cache
def ranks(settings: Sweep) -> list[Resident]:
    """Two that stay: what needs no launcher of its own is trained by them, in seconds."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    log = settings.shared / "ranks.log"
    pair = [Resident("faults.rank", log, RANK=str(rank), LOCAL_RANK=str(rank), **where) for rank in range(2)]
    for rank in pair:
        settings.at_end(rank.end)
    return pair


def train(settings: Sweep, arguments: Sequence[str], fault: str = "") -> list[str]:
    """Run the pretraining with these flags on both ranks -> for each "" or what it raised.

    Raises: Failed if a rank has ended; both are new for the next fault.
    """
    pair = ranks(settings)
    try:
        for rank in pair:
            rank.give({"arguments": list(arguments), "fault": fault})
        return [rank.answer() for rank in pair]
    except Exception:
        for rank in pair:
            rank.end()
        raise


@cache
def reference(settings: Sweep, stage: int) -> Path:
    """The run that nothing happens to."""
    run = settings.shared / f"reference-{stage}"
    answers = train(settings, flags(settings, run, stage))
    demand(answers == ["", ""], f"the undisturbed run failed: {answers}")
    return run


def losses(run: Path) -> dict[int, str]:
    """step -> loss as a hexadecimal number, so that equal means equal to the last bit."""
    return {record["step"]: float(record["loss"]).hex() for record in read_jsonl(run / "metrics.jsonl")}


def resume(settings: Sweep, run: Path, stage: int) -> int:
    """Go on with a stopped run to its end, which must be the undisturbed run's -> the step that it went on from."""
    steps = committed_steps(run / "checkpoints")
    demand(not (run / DONE).exists(), f"the run says that it is done at step {steps[-1:]}")
    answers = train(settings, [*flags(settings, run, stage), "--resume", "required"])
    demand(answers == ["", ""], f"it does not go on: {answers}")
    compare(settings, run, stage)
    return steps[-1]


def compare(settings: Sweep, run: Path, stage: int) -> None:
    """Demand that a finished run equals the undisturbed one to the last bit, in its losses and its encoder."""
    whole = reference(settings, stage)
    demand((run / DONE).exists(), "no done.json at the end")
    demand(losses(run) == losses(whole), "the losses differ from the undisturbed run's")
    for file in sorted((whole / "encoder").glob("*.safetensors")):
        demand((run / "encoder" / file.name).read_bytes() == file.read_bytes(), f"{file.name} differs")
