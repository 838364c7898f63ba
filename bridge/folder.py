"""The folder of a bridge run: config.json, metrics.jsonl and checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bridge.config import BridgeConfig
from bridge.gradients import Sums
from vlm.distributed import is_main
from vlm.errors import UserError
from vlm.files import append_jsonl, read_json, write_json
from vlm.llms.load import PRESETS
from vlm.run.checkpoints import Checkpoints, refuse_changes
from vlm.run.folder import forget_from
from vlm.run.resume import starting_step
from vlm.run.settings import trajectory

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.pt"  # in a checkpoint


def check_folder(config: BridgeConfig) -> None:
    """Compare `config` with the run that --out holds, if any, before anything is loaded.

    Raises: UserError if --out holds something else than this run.
    """
    run = Path(config.out)
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: give a folder as --out")
    if not (run / "config.json").exists():
        return
    old, new = read_json(run / "config.json"), trajectory(config)
    # Paths are compared by what lies there, once it is loaded. Names of different models differ at once.
    for part, now in (("llm", config.llm), ("encoder", config.encoder)):
        if _is_name(old.get(part)) and _is_name(now):
            new[part] = now
    refuse_changes(run, {name: old.get(name) for name in new}, new)


def _is_name(part: str | None) -> bool:
    """Whether nothing in a part that `--llm` or `--encoder` names is a path."""
    return part in (*PRESETS, "blind") or (part is not None and part.startswith("timm:") and "@" not in part)


class RunFolder:
    """The folder of one run, and the optimizer whose state its checkpoints hold."""

    def __init__(self, config: BridgeConfig, weights: Mapping[str, torch.nn.Parameter], content: dict[str, str]):
        """weights: what is trained. content: digests of what the settings name; see `bridge.content`."""
        self.folder, self.config, self._weights = Path(config.out), config, weights
        self._checkpoints = Checkpoints(self.folder, {**trajectory(config), **content}, same_processes=False)
        self.optimizer = torch.optim.AdamW(list(weights.values()), lr=config.lr, weight_decay=config.weight_decay)

    def resume(self) -> int:
        """Load the newest whole checkpoint as --resume asks -> the step to go on with; collective.

        Raises: UserError if the folder holds something that --resume does not allow for.
        """
        step = starting_step(self._checkpoints, self.config.resume, "vlm")
        if step is None:
            return 0
        folder = self._checkpoints.path(step)
        stored = load_file(folder / WEIGHTS)
        if stored.keys() != self._weights.keys():
            raise UserError(f"{folder} holds other weights than this run trains: give another --out")
        with torch.no_grad():
            for name, value in stored.items():
                self._weights[name].copy_(value)
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
        return step

    def begin(self, step: int) -> None:
        """Record the settings and drop the metrics of steps that will be repeated."""
        if is_main():
            write_json(self.folder / "config.json", asdict(self.config))
        forget_from(self.folder / "metrics.jsonl", step)

    def save(self, step: int) -> None:
        """Commit the checkpoint of `step`; collective. `UserError` if the disk refuses: the last one is untouched."""

        def fill(folder: Path) -> None:
            if is_main():  # all processes hold the same
                tensors = {name: value.detach().cpu().contiguous() for name, value in self._weights.items()}
                save_file(tensors, folder / WEIGHTS)
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)

        self._checkpoints.save(step, fill)

    def record(self, step: int, sums: Sums, lr: float, norm: float | None, seconds: float) -> None:
        """Append the step's line to metrics.jsonl. norm: of the gradient, None if nothing moved."""
        if not is_main():
            return
        rate = round(sums.questions / seconds, 2)
        line = {"step": step, "loss": sums.loss, "lr": lr, "samples_per_s": rate, "questions_per_s": rate}
        line |= {"questions": sums.questions, "tokens": sums.tokens, "answer_tokens": sums.answer_tokens}
        append_jsonl(self.folder / "metrics.jsonl", line | {"gradient_norm": norm})
