"""The tiny run of every fault: data, flags, two resident ranks that train without a new launch, comparisons."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from faults.fault import Sweep, demand
from vlm.files import read_jsonl
from vlm.run.folder import DONE
from vlm.run.steps import committed_steps

ROOT = Path(__file__).parents[2]
STEPS, SAVE_EVERY = 12, 2
TINY = (
    "--image-size 16 --patch-size 8 --vision-width 16 --vision-layers 1 --vision-heads 2 --text-width 16 "
    "--text-layers 1 --text-heads 2 --embed-dim 8 --projector-width 16 --projector-depth 2 --directions 32 "
    "--batch-size 8 --tokenizer train:300 --log-every 1 --tracker none"
)
FLAGS = f"{TINY} --warmup-steps 2 --steps {STEPS} --save-every {SAVE_EVERY} --workers 1 --dtype fp32".split()


def environment(**more: str) -> dict[str, str]:
    """Of a process that runs this checkout on CPU ranks of one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed, **more}


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


class Resident:
    """Two ranks that stay: what needs no launcher of its own is trained by them, in seconds."""

    def __init__(self, log: Path) -> None:
        port = str(free_port())
        self.ranks = []
        for number in range(2):
            where = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_PORT": port}
            variables = environment(**where, MASTER_ADDR="127.0.0.1")
            command = [sys.executable, "-m", "faults.resident"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with log.open("a") as errors:
                self.ranks.append(subprocess.Popen(command, cwd=ROOT, env=variables, stderr=errors, **pipes))

    def train(self, arguments: Sequence[str], fault: str = "") -> list[str]:
        """Run the pretraining with these flags -> for each rank "" or what it raised."""
        for process in self.ranks:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"arguments": list(arguments), "fault": fault}) + "\n")
            process.stdin.flush()
        answers = []
        for process in self.ranks:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("RESULT ")), None)
            demand(line is not None, "a resident rank has ended")
            answers.append(json.loads(str(line).removeprefix("RESULT ")))
        return answers

    def end(self) -> None:
        for process in self.ranks:
            process.kill()
            process.wait()


@cache
def resident(settings: Sweep) -> Resident:
    """The two ranks of this sweep."""
    ranks = Resident(settings.shared / "resident.log")
    settings.at_end(ranks.end)
    return ranks


@cache
def reference(settings: Sweep, stage: int) -> Path:
    """The run that nothing happens to."""
    run = settings.shared / f"reference-{stage}"
    answers = resident(settings).train(flags(settings, run, stage))
    demand(answers == ["", ""], f"the undisturbed run failed: {answers}")
    return run


def losses(run: Path) -> dict[int, str]:
    """step -> loss as a hexadecimal number, so that equal means equal to the last bit."""
    return {record["step"]: float(record["loss"]).hex() for record in read_jsonl(run / "metrics.jsonl")}


def resume(settings: Sweep, run: Path, stage: int) -> int:
    """Go on with a stopped run to its end, which must be the undisturbed run's -> the step that it went on from."""
    steps = committed_steps(run / "checkpoints")
    demand(not (run / DONE).exists(), f"the run says that it is done at step {steps[-1:]}")
    answers = resident(settings).train([*flags(settings, run, stage), "--resume", "required"])
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
