"""What happens to one rank in one step: NaN and a spike at each ZeRO stage, lateness, a clock that jumps, no memory."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from faults.fault import Fault, Sweep, demand
from faults.launched import launch
from faults.tiny import compare, flags, resume, train
from vlm.files import read_jsonl

STEP = 5


def faults(settings: Sweep) -> Iterator[Fault]:
    for stage in range(4):
        yield Fault(f"NaN on rank 1, ZeRO-{stage}", 0, partial(disturb, settings, stage, "nan"))
        yield Fault(f"spike x 1000 on rank 1, ZeRO-{stage}", 0, partial(disturb, settings, stage, "spike"))
    for stage, (what, name) in enumerate({"ahead": "clock a day ahead", "back": "clock a day back"}.items()):
        yield Fault(name, 0, partial(unharmed, settings, stage, what))
    yield Fault("rank 1 is 60 s late", 0, partial(unharmed, settings, 2, "late"))
    yield Fault("out of memory on rank 1", 0, partial(out_of_memory, settings))


def recorded(settings: Sweep, run: Path, stage: int, what: str) -> list[dict]:
    """The records of a run with the fault."""
    answers = train(settings, flags(settings, run, stage), f"1:{STEP}:step:{what}")
    demand(answers == ["", ""], f"it failed: {answers}")
    return list(read_jsonl(run / "metrics.jsonl"))


def disturb(settings: Sweep, stage: int, what: str, folder: Path) -> str:
    """A NaN moves nothing on any rank and is recorded; a spike is clipped. The weights stay finite."""
    records = recorded(settings, folder / "run", stage, what)
    skipped = [record["step"] for record in records if record["skipped"]]
    demand(skipped == ([STEP] if what == "nan" else []), f"skipped are the steps {skipped}")
    for file in (folder / "run/encoder").glob("*.safetensors"):
        demand(all(bool(part.isfinite().all()) for part in load_file(file).values()), f"{file.name} is not finite")
    last = records[-1]["loss"]
    demand(math.isfinite(last), f"the last loss is {last}")
    return f"skipped {skipped}, gradient norm {records[STEP]['gradient_norm']}, last loss {last:.4f}, weights finite"


def unharmed(settings: Sweep, stage: int, what: str, folder: Path) -> str:
    """Nothing comes of it."""
    recorded(settings, folder / "run", stage, what)
    compare(settings, folder / "run", stage)
    return "equal to the undisturbed run to the last bit"


def out_of_memory(settings: Sweep, folder: Path) -> str:
    """It ends the run with one line, and the same command goes on."""
    left = launch(settings, folder, 1, f"1:{STEP}:step:memory")
    told = [line for line in left.text.splitlines() if line.startswith(f"error: out of memory in step {STEP} ")]
    demand(len(told) == 1 and "is whole" in told[0] and "Traceback" not in left.text, f"it said {left.text[-600:]}")
    start = resume(settings, folder / "run", 1)
    return f"exit code {left.code}; went on from {start}, equal to the last bit"
