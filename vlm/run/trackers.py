"""Sends the records of metrics.jsonl to TensorBoard, Weights & Biases or Trackio as well."""

import importlib
import sys
import uuid
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_json

TRACKERS = ("auto", "none", "tensorboard", "wandb", "trackio")
Log = Callable[[Iterable[dict]], None]


def check_tracker(name: str) -> None:
    """Raise `UserError` if a tracker that was asked for is not installed."""
    if name not in ("auto", "none") and find_spec(name) is None:
        raise UserError(f"--tracker {name}: that package is not installed: pip install {name}, or give another tracker")


def open_tracker(name: str, run: Path, settings: dict, start: int) -> Log:
    """Open a tracker for a run that begins or goes on at step `start`; for rank 0, before metrics.jsonl is cut.

    A resumed run repeats the steps since its checkpoint; each is shown once. auto: TensorBoard if it is installed.
    """
    if name == "auto" and not find_spec("tensorboard"):
        print(f"tensorboard is not installed: the run is recorded in {run / 'metrics.jsonl'} alone", file=sys.stderr)
        name = "none"
    if name == "none":
        return lambda records: None
    return _hosted(name, run, settings) if name in ("wandb", "trackio") else _tensorboard(run / "tensorboard", start)


def _scalars(record: dict) -> dict[str, float]:
    return {key: value for key, value in record.items() if key != "step" and isinstance(value, (int, float))}


def _tensorboard(folder: Path, start: int) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=start)  # TensorBoard drops what a killed run wrote beyond `start`

    def log(records: Iterable[dict]) -> None:
        for record in records:
            for key, value in _scalars(record).items():
                writer.add_scalar(key, value, record["step"])
        writer.flush()

    return log


def _hosted(name: str, run: Path, settings: dict) -> Log:
    """Weights & Biases, or Trackio, which has the same calls. They cannot drop steps: none is sent twice."""
    tracker = importlib.import_module(name)
    file, metrics = run / f"{name}.json", run / "metrics.jsonl"
    if not file.exists():
        write_json(file, {"run": f"{run.resolve().name}-{uuid.uuid4().hex[:8]}"})
    label = read_json(file)["run"]
    sent = max((record["step"] for record in read_jsonl(metrics)), default=-1) if metrics.exists() else -1
    options = {"id": label, "dir": str(run)} if name == "wandb" else {}
    try:
        tracker.init(project="levlm", name=label, config=settings, resume="allow", **options)
    except Exception as error:  # each has its own classes for no account or no network
        raise UserError(f"--tracker {name} cannot start: {error}") from error

    def log(records: Iterable[dict]) -> None:
        for record in records:
            if record["step"] > sent:
                tracker.log(_scalars(record), step=record["step"])

    return log
