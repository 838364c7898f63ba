"""The folder of a bridge run: config.json, metrics.jsonl, quarantine.jsonl and checkpoints."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bridge.config import BridgeConfig
from bridge.data.judging import records_of
from bridge.data.mixture import Mixture
from bridge.same_run import allowed_changes
from vlm.distributed import all_items, is_main, on_main
from vlm.errors import UserError
from vlm.files import append_jsonl, read_json, read_jsonl, write_json
from vlm.room import file_sizes, require_room
from vlm.run.changes import refuse_changes
from vlm.run.checkpoints import KEEP, Checkpoints, settings_at
from vlm.run.folder import begin, forget_from
from vlm.run.quarantine import Quarantine, refuse_above
from vlm.run.resume import starting_step
from vlm.run.settings import trajectory
from vlm.run.steps import committed_steps
from vlm.run.trackers import Tracker, open_tracker

METRICS, HELD_OUT, QUARANTINE = "metrics.jsonl", "held_out.jsonl", "quarantine.jsonl"
WEIGHTS, OPTIMIZER, RECORDER = "weights.safetensors", "optimizer.safetensors", "recorder.json"  # in a checkpoint
ADAMW = ("step", "exp_avg", "exp_avg_sq")  # what the optimizer keeps of a weight


class RunFolder:
    """The folder of one run, and the optimizer whose state its checkpoints hold."""

    def __init__(
        self,
        config: BridgeConfig,
        weights: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        digests: dict[str, str],
    ):
        """weights: what is trained. digests: all that `bridge.digests` gives, by name."""
        self.folder, self.config, self._weights, self.optimizer = Path(config.out), config, weights, optimizer
        self.tracker = Tracker()  # of rank 0, from `begin` on, the one that was asked for
        self.failures = 0  # steps in a row that moved nothing, up to the last checkpoint
        self._pending: list[dict] = []  # lines of metrics.jsonl that are not written yet
        settings, changes = {**trajectory(config), **digests}, allowed_changes(config)
        self._checkpoints = Checkpoints(self.folder, settings, changes=changes)

    def resume(self) -> int:
        """Load the newest whole checkpoint, if --resume allows for it -> the step to go on with; collective."""
        step = starting_step(self._checkpoints, self.config.resume, "vlm")
        if step is None:
            return 0
        folder = self._checkpoints.path(step)
        try:
            weights, states = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
            if (folder / RECORDER).is_file():  # older checkpoints have none
                self.failures = int(read_json(folder / RECORDER)["failures"])
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{folder} cannot be read ({error}): give another --out") from None
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        moments = {f"{kind}/{name}": () if kind == "step" else shapes[name] for kind in ADAMW for name in shapes}
        stored = {name: value.shape for name, value in weights.items()}
        if stored != shapes or any(moments.get(name) != value.shape for name, value in states.items()):
            raise UserError(f"{folder} holds other weights than this run trains: give another --out")
        with torch.no_grad():
            for name, value in weights.items():
                self._weights[name].copy_(value)
        for key, value in states.items():
            kind, _, name = key.partition("/")
            weight = self._weights[name]
            self.optimizer.state[weight][kind] = value.to(weight.device)  # also its steps: fused AdamW counts there
        return step

    def begin(self, step: int) -> None:
        """Record the settings, open the tracker, and drop what was recorded of steps that will be repeated."""
        if is_main():
            begin(self.folder, asdict(self.config))
            self.tracker = open_tracker(self.config.tracker, self.folder, asdict(self.config), step)
        forget_from(self.folder / METRICS, step)
        forget_from(self.folder / HELD_OUT, step)

    def left_out_before(self, mixture: Mixture) -> dict[int, str]:
        """Questions of the mixture that an earlier start of this run left out, index -> reason.

        They stay out even if their images are mended. By question, not by image: the one that is listed may be whole,
        beside a broken one or under a text that no row may hold.
        """
        found: dict[int, str] = {}
        file, examples = self.folder / QUARANTINE, mixture.examples
        for line in read_jsonl(file) if file.is_file() else ():
            number = line.get("position", len(examples))
            if number < len(examples) and examples[number].question_id == line["key"]:
                found[number] = line["reason"]
        return found

    def quarantine(self, mixture: Mixture, left_out: Mapping[int, str], start: int) -> None:
        """List in quarantine.jsonl what is not trained on, and say how much it is. left_out: question -> why.

        Raises: UserError if that is too much for --bad-ratio.
        """
        if start == 0:  # of an attempt that came to nothing
            (self.folder / QUARANTINE).unlink(missing_ok=True)
        records = [*mixture.bad, *records_of(mixture, left_out)]
        if records:
            Quarantine(self.folder / QUARANTINE, 0).add(records)
            reasons = Counter(record["reason"] for record in records)
            words = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
            total = len(mixture.examples) + len(mixture.bad)
            listed = f"listed in {self.folder / QUARANTINE}"
            print(f"{len(records)} of {total} questions are left out: {words}; {listed}", file=sys.stderr)
            refuse_above(self.config.bad_ratio, total, reasons, "the {} questions")

    def note(self, mixture: Mixture, left_out: Mapping[int, str]) -> None:
        """List what was met while training without a feature cache, and left out of its step; collective.

        left_out: question -> why, of this rank. Raises: UserError if all that is listed is too much for --bad-ratio.
        """
        records = all_items(records_of(mixture, left_out))
        on_main(lambda: self._list_and_judge(mixture, records))

    def _list_and_judge(self, mixture: Mixture, records: Iterable[dict]) -> None:
        quarantine = Quarantine(self.folder / QUARANTINE, 0)
        quarantine.add(records)
        total = len(mixture.examples) + len(mixture.bad)
        refuse_above(self.config.bad_ratio, total, quarantine.reasons(), "the {} questions")

    def check_room(self, model: torch.nn.Module) -> None:
        """Raise a UserError, before the first step, if the next save does not fit on the disk of the run.

        A checkpoint has the weights that are trained and two moments of each, in fp32. RUN/vlm has the whole model.
        """
        saved = self._checkpoints.expected = 12 * sum(weight.numel() for weight in self._weights.values())
        whole = whole_bytes(model)
        there = sum(file_sizes(self.folder / "checkpoints"))
        parts = {"checkpoint": saved, "vlm": whole}
        require_room(self.folder, parts, max(0, KEEP * saved - there))

    def save(self, step: int, failures: int = 0) -> None:
        """Commit the checkpoint of `step`; collective. failures: steps in a row up to it that moved nothing.

        Raises: UserError if the disk refuses; the last checkpoint is untouched.
        """
        self.flush()  # before: a step that a checkpoint holds is not recorded again

        def fill(folder: Path) -> None:
            if is_main():  # all processes hold the same
                save_file(_on_disk(self._weights), folder / WEIGHTS)
                kept = {name: self.optimizer.state.get(weight, {}) for name, weight in self._weights.items()}
                states = {f"{kind}/{name}": state[kind] for name, state in kept.items() for kind in state}
                save_file(_on_disk(states), folder / OPTIMIZER)
                write_json(folder / RECORDER, {"failures": failures})

        self._checkpoints.save(step, fill)

    def record(
        self, step: int, loss: float, counts: dict[str, int], lr: float, norm: float | None, seconds: float
    ) -> None:
        """Take the step's line of metrics.jsonl; every `log_every` steps they are written.

        norm: of the gradient, None if nothing moved. A loss that is not finite is written as null: JSON has no NaN.
        """
        if not is_main():
            return
        rate = round(counts["questions"] / seconds, 2)
        finite = loss if math.isfinite(loss) else None
        line = {"step": step, "loss": finite, "lr": lr, "samples_per_s": rate, "questions_per_s": rate}
        if self.config.lora and self.config.lr_lora is not None:
            line["lr_lora"] = lr * self.config.lr_lora / self.config.lr
        self._pending.append(line | counts | {"gradient_norm": norm})
        if (step + 1) % self.config.log_every == 0:
            self.flush()

    def flush(self) -> None:
        """Write the lines that were taken to metrics.jsonl and the tracker."""
        for line in self._pending:
            append_jsonl(self.folder / METRICS, line)
        if self._pending:
            self.tracker(self._pending)
        self._pending = []


def whole_bytes(model: torch.nn.Module) -> int:
    """The size of a model's weights as they are saved. A quantised one, which is saved whole, holds less in memory."""
    dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    quantised = {
        id(layer.weight): layer.out_features * layer.in_features * dtype.itemsize  # 4-bit weights are packed in pairs
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and not layer.weight.is_floating_point()
    }
    return sum(quantised.get(id(weight), weight.nbytes) for weight in model.parameters())


def _on_disk(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As safetensors takes them."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def check_data(config: BridgeConfig, digests: Mapping[str, str]) -> None:
    """Refuse by a `UserError`, before any model is loaded, a run whose newest checkpoint learnt from other data.

    digests: of the questions and images.
    """
    run = Path(config.out)
    for step in reversed(committed_steps(run / "checkpoints")):
        if old := settings_at(run, step):  # else it is damaged: `RunFolder.resume` deals with it
            known = {name: value for name, value in digests.items() if name in old}
            refuse_changes(run, {name: old[name] for name in known}, known, allowed_changes(config))
            return
