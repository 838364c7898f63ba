"""Resumable state of a bridge run: trained weights and optimizer, committed whole, checked before they are opened."""

import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vlm.checkpoint import atomic_directory, file_sha256
from vlm.errors import UserError
from vlm.logs import read_json, write_json

KEEP = 2


def save(run: Path, step: int, trained: dict[str, torch.nn.Parameter], optimizer, fingerprint: dict) -> None:
    """Commit RUN/checkpoints/step_N and drop the oldest; called by one process. UserError where the disk is full."""
    folder = run / "checkpoints" / f"step_{step}"
    try:
        with atomic_directory(folder) as partial:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in trained.items()},
                partial / "weights.safetensors",
            )
            torch.save(optimizer.state_dict(), partial / "optimizer.pt")
            files = {name: file_sha256(partial / name) for name in ("weights.safetensors", "optimizer.pt")}
            write_json(partial / "manifest.json", {"step": step, "fingerprint": fingerprint, "files": files})
    except (OSError, RuntimeError) as error:  # torch.save and safetensors report a full disk as RuntimeError
        raise UserError(f"cannot write the checkpoint {folder} ({error}): the previous one is untouched") from None
    for old in steps(run)[:-KEEP]:
        shutil.rmtree(run / "checkpoints" / f"step_{old}")


def load(run: Path, step: int, trained: dict[str, torch.nn.Parameter], optimizer) -> None:
    """Copy a checkpoint that `newest` found whole into the parameters and the optimizer."""
    folder = run / "checkpoints" / f"step_{step}"
    weights = load_file(folder / "weights.safetensors")
    if weights.keys() != trained.keys():
        raise UserError(f"{folder} holds other weights than this run trains: give another --out")
    with torch.no_grad():
        for name, value in weights.items():
            trained[name].copy_(value)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))


def steps(run: Path) -> list[int]:
    """Steps of the committed checkpoints, oldest first, ordered by number."""
    names = (re.fullmatch(r"step_(\d+)", path.name) for path in (run / "checkpoints").glob("step_*"))
    return sorted(int(match[1]) for match in names if match)


def newest(run: Path, fingerprint: dict) -> int | None:
    """Step of the newest whole checkpoint, or None where there is none.

    A damaged one is passed over with a line. Raises UserError where the run's settings differ from `fingerprint`, or
    where checkpoints exist but none is whole.
    """
    for step in reversed(steps(run)):
        folder = run / "checkpoints" / f"step_{step}"
        if problem := _damage(folder):
            print(f"passing over {folder}: {problem}", file=sys.stderr)
            continue
        old = read_json(folder / "manifest.json")["fingerprint"]
        refuse_changes(run, old, fingerprint)
        return step
    if steps(run):
        raise UserError(f"no checkpoint under {run / 'checkpoints'} is whole: give another --out to start anew")
    return None


def refuse_changes(run: Path, old: dict, new: dict) -> None:
    """UserError naming what of `old`, with which `run` was started, is otherwise in `new`."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if names:
        changed = ", ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in names)
        raise UserError(f"{run} was started with other settings ({changed}): restore them or give another --out")


def _damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None: every file must have its recorded SHA-256."""
    try:
        files = read_json(folder / "manifest.json")["files"]
    except (UserError, KeyError, TypeError) as error:
        return f"its manifest.json cannot be read ({error})"
    for name, digest in files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            return f"{name} is missing or not what was written"
    return None
