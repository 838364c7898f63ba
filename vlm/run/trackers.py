"""Sends the records of metrics.jsonl, and pictures, to TensorBoard, Weights & Biases or Trackio as well."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm.errors import UserError
from vlm.files import read_json, read_jsonl, write_json

if TYPE_CHECKING:
    from PIL import Image

TRACKERS = ("auto", "none", "tensorboard", "wandb", "trackio")
# How the names of values begin -> the group that trackers show them in. Others, as lr, stand for themselves.
GROUPS = {
    "predict_": "loss",
    "sigreg_": "loss",
    "multi_view": "loss",
    "rank_": "rank",
    "cosine_": "cosine",
    "probe_": "probe",
    "gradient_norm": "gradient",
    "samples_per_s": "speed",
    "data_wait_s": "speed",
    "device_idle": "speed",
    "questions_per_s": "speed",
    "questions": "step",
    "tokens": "step",
    "answer_tokens": "step",
}


class Tracker:
    """The tracker `none`: it takes everything and shows nothing."""

    def __call__(self, records: Iterable[dict]) -> None:
        """Show the numbers of lines of metrics.jsonl, each at its `step`."""

    def picture(self, step: int, name: str, image: Image.Image, text: str) -> None:
        """Show a picture and Markdown beside it, after the records of `step`."""


def tag(name: str) -> str:
    """The name under which trackers show a value: loss -> loss/total, samples_per_s -> speed/samples_per_s, lr -> lr"""
    if name == "loss":
        return "loss/total"
    group = next((group for start, group in GROUPS.items() if name.startswith(start)), None)
    return f"{group}/{name}" if group else name


def check_tracker(name: str) -> None:
    """Raise `UserError` if a tracker that was asked for is not installed."""
    if name not in ("auto", "none") and find_spec(name) is None:
        raise UserError(f"--tracker {name}: that package is not installed: pip install {name}, or give another tracker")


def open_tracker(name: str, run: Path, settings: dict, start: int) -> Tracker:
    """Open a tracker for a run that begins or goes on at step `start`; for rank 0, before metrics.jsonl is cut.

    A resumed run repeats the steps since its checkpoint; each is shown once. auto: TensorBoard if it is installed.
    """
    if name == "auto" and not find_spec("tensorboard"):
        print(f"tensorboard is not installed: the run is recorded in {run / 'metrics.jsonl'} alone", file=sys.stderr)
        name = "none"
    if name == "none":
        return Tracker()
    return _Hosted(name, run, settings) if name in ("wandb", "trackio") else _TensorBoard(run / "tensorboard", start)


def _scalars(record: dict) -> dict[str, float]:
    return {tag(key): value for key, value in record.items() if key != "step" and isinstance(value, (int, float))}


class _TensorBoard(Tracker):
    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard drops what a killed run wrote beyond `start`.
        self._writer = SummaryWriter(str(folder), purge_step=start)

    def __call__(self, records: Iterable[dict]) -> None:
        for record in records:
            for key, value in _scalars(record).items():
                self._writer.add_scalar(key, value, record["step"])
        self._writer.flush()

    def picture(self, step: int, name: str, image: Image.Image, text: str) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.add_text(name, text, step)
        self._writer.flush()


class _Hosted(Tracker):
    """Weights & Biases, or Trackio, which has the same calls. They cannot drop steps: none is sent twice.

    RUN/wandb.json or RUN/trackio.json keeps the run's name there and the last step that was sent. metrics.jsonl, which
    older runs have alone, forgets the steps that a resumed run repeats.
    """

    def __init__(self, name: str, run: Path, settings: dict):
        self._tracker: Any = importlib.import_module(name)
        self._file, metrics = run / f"{name}.json", run / "metrics.jsonl"
        if not self._file.exists():
            write_json(self._file, {"run": f"{run.resolve().name}-{uuid.uuid4().hex[:8]}"})
        known = read_json(self._file)
        label, recorded = known["run"], read_jsonl(metrics) if metrics.exists() else ()
        self._sent = max([known.get("sent", -1), *(record["step"] for record in recorded)])
        self._known: dict[str, Any] = known | {"sent": self._sent}
        write_json(self._file, self._known)  # before metrics.jsonl is cut
        options = {"id": label, "dir": str(run)} if name == "wandb" else {}
        try:
            self._tracker.init(project="levlm", name=label, config=settings, resume="allow", **options)
        except Exception as error:  # each has its own classes for no account or no network
            raise UserError(f"--tracker {name} cannot start: {error}") from error

    def __call__(self, records: Iterable[dict]) -> None:
        for record in records:
            if record["step"] > self._sent:
                self._tracker.log(_scalars(record), step=record["step"])
                self._known["sent"] = record["step"]
        write_json(self._file, self._known)

    def picture(self, step: int, name: str, image: Image.Image, text: str) -> None:
        if step > self._sent:
            self._tracker.log({name: self._tracker.Image(image, caption=text)}, step=step)
