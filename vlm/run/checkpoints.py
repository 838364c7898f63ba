"""Checkpoints of a training run: committed whole, verified before they are opened.

RUN/checkpoints/step_N/ holds what the stage wrote, and `manifest.json`:

    {"step": N, "world_size": processes, "config": settings, "files": {name: [bytes, sha256]}}

A checkpoint is written as `step_N.tmp` and renamed when everything is on the disk. So what is called step_N is whole,
unless something damages it later, which its hashes then show.
"""

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vlm.directories import replace_directory
from vlm.distributed import all_items, barrier, is_main, world_size
from vlm.errors import UserError, writing
from vlm.files import read_json, sync, write_json
from vlm.integrity import difference, hashed, listing, read_record
from vlm.room import file_sizes, require_room
from vlm.run.changes import NO_CHANGES, Changes, refuse_changes
from vlm.run.steps import committed_steps

KEEP = 2  # checkpoints
MANIFEST = "manifest.json"
ADVICE = "the previous checkpoint is untouched, make room and resume"
# What each value of a manifest must be; its files are `difference`'s to judge.
_FITS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: type(value) is int,
    "world_size": lambda value: type(value) is int and value >= 1,
    "config": lambda value: isinstance(value, dict),
    "files": lambda value: isinstance(value, dict),
}


class Checkpoints:
    """The checkpoints of the run in folder `run`.

    settings: what a continuation must share with the run that wrote a checkpoint; the number of processes may differ.
    changes: of the settings, which may differ. keep_every: checkpoints of a multiple of so many steps are kept besides
    the last ones; 0 for none.
    """

    def __init__(self, run: Path, settings: dict, changes: Changes = NO_CHANGES, keep_every: int = 0):
        self.run, self.settings = run, settings
        self.changes, self.keep_every = changes, keep_every
        self.folder = run / "checkpoints"
        self.expected: int | None = None  # bytes of a checkpoint, if whoever fills it knows: told if the disk is full

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, oldest first, ordered by number."""
        return committed_steps(self.folder)

    def newest(self) -> int | None:
        """Step of the newest whole checkpoint, None without any. A damaged one is passed over, with a line on stderr.

        Raises: UserError if settings differ from the checkpoint's, or checkpoints exist and none is whole.
        """
        for step in reversed(self.steps()):
            if problem := damage(self.path(step)):
                print(f"passing over {self.path(step)}: {problem}", file=sys.stderr)
                continue
            manifest = read_json(self.path(step) / MANIFEST)
            _refuse_pickles(self.path(step), manifest["files"])
            changed = refuse_changes(self.run, manifest["config"], self.settings, self.changes, step)
            if changed:
                print(f"{self.run} goes on from step {step} with other settings: {', '.join(changed)}", flush=True)
            return step
        if self.steps():
            raise UserError(f"no checkpoint under {self.folder} is whole: give another --out to start anew")
        return None

    def verified(self, step: int | None = None, flag: str = "--step") -> tuple[int, Path]:
        """The checkpoint of `step`, by default the newest one, whatever its settings: its step and folder.

        flag: by which a user gives the step, for the message.
        Raises: UserError if there is none, or it is damaged.
        """
        if not (steps := self.steps()):
            raise UserError(f"{self.run} holds no checkpoint: give the folder of a run that has saved one")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise UserError(f"{self.run} holds no checkpoint of step {step}: it has {', '.join(map(str, steps))}")
        if problem := damage(self.path(step)):
            raise UserError(f"{self.path(step)} is damaged: {problem}; give another {flag} ({steps})")
        _refuse_pickles(self.path(step), read_json(self.path(step) / MANIFEST)["files"])
        return step, self.path(step)

    def set_aside(self, step: int) -> None:
        """Rename the damaged checkpoints that are newer than `step`: they no longer count among those kept."""
        for later in self.steps():
            if later > step:
                damaged = self.folder / f"step_{later}.damaged"
                shutil.rmtree(damaged, ignore_errors=True)
                self.path(later).rename(damaged)

    def save(self, step: int, fill: Callable[[Path], None]) -> None:
        """Commit the checkpoint of `step`, then drop all but the last `KEEP` and the milestones; collective.

        fill: writes this process's files into the folder that it is given. Until the last rename the previous
        checkpoint stays the newest. If the disk of any process refuses, nothing of the new one is left.
        Raises: UserError then on rank 0, SystemExit(2) on the other ranks.
        """
        partial = self.folder / f"step_{step}.tmp"
        phases = (lambda: self._prepare(partial), lambda: fill(partial), lambda: self._commit(step, partial))
        # All processes agree after each phase: none goes on to wait for one whose disk has refused.
        for phase in phases:
            if problem := self._attempt(step, phase):
                if is_main():
                    shutil.rmtree(partial, ignore_errors=True)
                barrier()
                raise UserError(problem) if is_main() else SystemExit(2)

    def _attempt(self, step: int, phase: Callable[[], None]) -> str | None:
        """Run `phase` on every process. All of them return the first problem that any had with its disk, or None."""
        problem = None
        try:
            with writing(self.path(step), ADVICE, self.expected):
                phase()
        except UserError as error:
            problem = str(error)
        return next((found for found in all_items([problem]) if found), None)

    def _prepare(self, partial: Path) -> None:
        """Remove what a killed save left, and see whether one more checkpoint of the last one's size fits."""
        if is_main():
            for litter in self.folder.glob("step_*.tmp"):
                shutil.rmtree(litter, ignore_errors=True)
            partial.mkdir(parents=True)
            if steps := self.steps():
                sizes = file_sizes(self.path(steps[-1]))
                what = f"a checkpoint like step_{steps[-1]}"
                require_room(self.folder, {what: sum(sizes)}, largest=max(sizes), advice=ADVICE)

    def _commit(self, step: int, partial: Path) -> None:
        """Flush and hash what all processes wrote, rename it, and drop the oldest."""
        if not is_main():
            return
        names = listing(partial)
        for name in names:
            sync(partial / name)
        manifest = {"step": step, "world_size": world_size(), "config": self.settings, "files": hashed(partial, names)}
        manifest |= {"milestone": True} if self._is_milestone(step) else {}
        write_json(partial / MANIFEST, manifest)
        sync(partial)
        replace_directory(partial, self.path(step))
        for old in self.steps()[:-KEEP]:
            if not self._is_milestone(old) and not _was_milestone(self.path(old)):
                shutil.rmtree(self.path(old))

    def _is_milestone(self, step: int) -> bool:
        return bool(self.keep_every) and step % self.keep_every == 0


def _was_milestone(folder: Path) -> bool:
    """What was one when it was saved stays one, whatever the command that goes on says of --keep-every."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (UserError, OSError):
        return False  # damaged: nothing can go on from it
    return isinstance(manifest, dict) and manifest.get("milestone") is True


def _refuse_pickles(folder: Path, files: Iterable[str]) -> None:
    """Raise a `UserError` if a checkpoint holds pickles, as older versions wrote: opening one can run any code."""
    if pickles := sorted(name for name in files if name.endswith((".pt", ".pth", ".pkl", ".bin"))):
        raise UserError(
            f"{folder} was written by an older version, as pickles ({pickles[0]}), which are opened no more: "
            "finish the run with that version, or start anew with another --out"
        )


def settings_at(run: Path, step: int | None = None) -> dict[str, Any]:
    """The settings of a run's checkpoint, the newest by default; {} without one, and of a damaged one.

    Nothing else of it is read or verified: whoever opens it does that.
    """
    steps = committed_steps(run / "checkpoints")
    if step is None and not steps:
        return {}
    try:
        return dict(read_json(run / "checkpoints" / f"step_{step or steps[-1]}" / MANIFEST)["config"])
    except (UserError, KeyError, TypeError, ValueError):
        return {}


def damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None; nothing but its manifest.json is opened before.

    Every file must be listed, and have its recorded size and SHA-256: what is not listed could be read unverified.
    """
    try:
        manifest = read_record(folder / MANIFEST)
        wrong = [key for key, fits in _FITS.items() if not fits(manifest.get(key))]
        if wrong or manifest["step"] != int(folder.name.removeprefix("step_")):
            return f"its {MANIFEST} has no usable {', '.join(wrong) or 'step'}"
        return difference(folder, manifest["files"], lambda name: name != MANIFEST, MANIFEST)
    except UserError as error:
        return f"its {MANIFEST} cannot be used ({error})"
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
