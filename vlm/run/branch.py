"""Starts a run from a checkpoint of another one."""

import json
import shutil
import sys
from pathlib import Path

from vlm.errors import UserError, writing
from vlm.files import read_json, read_jsonl, sync, write_file
from vlm.run.changes import refuse_changes
from vlm.run.checkpoints import MANIFEST, Checkpoints


def branch(checkpoints: Checkpoints, source: Path, step: int, result: str) -> None:
    """Copy the whole checkpoint of `step` and the records before it from the run `source`; for rank 0.

    checkpoints: of a run that has none yet. From here on it goes on from that step by the same rules as after a stop:
    the source's settings but for those that may change, and the same order of the data. result: as for `starting_step`.
    Raises: UserError if the settings do not allow it, or the folder holds a run already.
    """
    run = checkpoints.run
    if found := [name for name in (result, "metrics.jsonl") if (run / name).exists()]:
        raise UserError(f"--branch: {run} holds a run's {' and '.join(found)}: give another --out, or move it away")
    folder = Checkpoints(source, {}).path(step)
    settings = read_json(folder / MANIFEST)["config"]
    refuse_changes(source, settings, checkpoints.settings, checkpoints.changes, step)
    place = checkpoints.path(step)
    partial = place.with_name(place.name + ".tmp")
    records = list(read_jsonl(source / "metrics.jsonl")) if (source / "metrics.jsonl").exists() else []
    with writing(place):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        for path in partial.rglob("*"):
            sync(path)
        if records:  # before the checkpoint is in place: no later call may go on from it without them
            lines = [
                json.dumps(record, ensure_ascii=False) + "\n" for record in records if record.get("step", 0) < step
            ]
            write_file(run / "metrics.jsonl", "".join(lines))
        partial.rename(place)
        sync(checkpoints.folder)
    print(f"{run} branches from {folder}", file=sys.stderr)
