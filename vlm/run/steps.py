"""Which checkpoints a run has, and whether --resume allows for them. Nothing here waits for torch."""

import re
from pathlib import Path

from vlm.errors import UserError


def committed_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run's folder `checkpoints`, oldest first, ordered by number."""
    names = (re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*"))
    return sorted(int(match[1]) for match in names if match)


def kept_words(run: Path) -> str:
    """What a run that breaks off can say of its folder."""
    steps = committed_steps(run / "checkpoints")
    if not steps:
        return "no checkpoint was due yet, the same command starts anew"
    return f"the checkpoint of step {steps[-1]} is whole, the same command goes on from there"


def check_resume(run: Path, resume: str, step: int | None) -> None:
    """Raise a `UserError` if --resume does not allow for `step`, the newest checkpoint of `run`, or for None."""
    if resume == "never" and step is not None:
        raise UserError(f"{run} holds a run at step {step}: give another --out, or --resume auto to continue it")
    if resume == "required" and step is None:
        raise UserError(f"--resume required, but {run} has no checkpoint: use --resume auto to start one")
