"""Resumable state of a run: DeepSpeed's own files, committed whole, checked before they are opened."""

import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.vocabulary import identity
from vlm.checkpoint import file_sha256, sync
from vlm.distributed import barrier, is_main
from vlm.errors import UserError
from vlm.logs import read_json, write_json

KEEP = 2
# What may differ between a run and its continuation: none of it changes the trajectory.
FREE = {"data", "out", "resume", "workers", "tracker", "log_every", "save_every", "micro_batch_size"}
FREE |= {"probe_every", "probe_data", "bad_ratio"}


def fingerprint(config: PretrainConfig, data: str) -> dict:
    """What a resumed run must share with the run that wrote the checkpoint: settings, and the data's fingerprint."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE}
    return {**settings, "tokenizer": identity(config.tokenizer), "data_fingerprint": data}


def save(engine, run: Path, step: int, settings: dict, world_size: int) -> None:
    """Commit `run/checkpoints/step_{step}`; collective. Until the last rename the previous one stays the newest.

    `UserError` where it cannot be written; nothing of it is then left.
    """
    folder = run / "checkpoints"
    partial = folder / f"step_{step}.tmp"
    try:
        _write(engine, run, partial, step, settings, world_size)
    except (OSError, RuntimeError) as error:
        # torch.save tells of a full disk as a RuntimeError of its writer in C++
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in ("StreamWriter", "inline_cont")):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"cannot write {folder / f'step_{step}'} ({' '.join(str(error).split())[:200]}; {_free(run)} free): "
            "the previous checkpoint is untouched, make room and resume"
        ) from error


def _write(engine, run: Path, partial: Path, step: int, settings: dict, world_size: int) -> None:
    """Fill `partial` and rename it; then drop all but the last `KEEP`."""
    folder = partial.parent
    if is_main():
        for litter in folder.glob("step_*.tmp"):  # of a save that was killed
            shutil.rmtree(litter, ignore_errors=True)
    barrier()
    engine.save_checkpoint(str(folder), tag=partial.name, client_state={"step": step}, save_latest=False)
    barrier()
    if is_main():
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            sync(path)
        manifest = {
            "step": step,
            "world_size": world_size,
            "config": settings,
            "files": {str(path.relative_to(partial)): [path.stat().st_size, file_sha256(path)] for path in files},
        }
        write_json(partial / "manifest.json", manifest)
        sync(partial)
        shutil.rmtree(folder / f"step_{step}", ignore_errors=True)
        partial.rename(folder / f"step_{step}")
        sync(folder)
        for old in steps(run)[:-KEEP]:
            shutil.rmtree(folder / f"step_{old}")
    barrier()


def _free(run: Path) -> str:
    """Bytes free on the disk of `run`."""
    try:
        return f"{shutil.disk_usage(run).free:,} bytes"
    except OSError:
        return "unknown"


def set_aside(run: Path, step: int) -> None:
    """Rename the damaged checkpoints that are newer than `step`, so that they no longer count among those kept."""
    for later in steps(run):
        if later > step:
            damaged = run / "checkpoints" / f"step_{later}.damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            damaged.with_suffix("").rename(damaged)


def steps(run: Path) -> list[int]:
    """Steps of the committed checkpoints, oldest first, ordered by number."""
    names = (re.fullmatch(r"step_(\d+)", path.name) for path in (run / "checkpoints").glob("step_*"))
    return sorted(int(match[1]) for match in names if match)


def _damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None: every file must have its recorded size and SHA-256."""
    try:
        files = read_json(folder / "manifest.json")["files"]
    except (UserError, KeyError, TypeError) as error:
        return f"its manifest.json cannot be read ({error})"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or file_sha256(path) != digest:
            return f"{path} is missing or not what was written"
    return None


def newest(run: Path, settings: dict, world_size: int) -> int | None:
    """Step of the newest whole checkpoint that a run with these `settings` may continue, or None without checkpoints.

    A damaged checkpoint is passed over with a line. Raises `UserError` where the settings or the number of processes
    differ from the checkpoint's, or where checkpoints exist but none is whole.
    """
    for step in reversed(steps(run)):
        folder = run / "checkpoints" / f"step_{step}"
        if problem := _damage(folder):
            print(f"passing over {folder}: {problem}", file=sys.stderr)
            continue
        manifest = read_json(folder / "manifest.json")
        changed = {
            name: (manifest["config"].get(name), value)
            for name, value in settings.items()
            if manifest["config"].get(name) != value
        }
        if changed:
            pairs = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
            raise UserError(f"{run} was started with other settings ({pairs}): restore them or give another --out")
        if manifest["world_size"] != world_size:
            raise UserError(
                f"{folder} was written by {manifest['world_size']} processes, this run has {world_size}: "
                f"launch {manifest['world_size']} or give another --out"
            )
        return step
    if steps(run):
        raise UserError(f"no checkpoint under {run / 'checkpoints'} is whole: give another --out to start anew")
    return None
