"""What a pretraining checkpoint holds, and what a continuation must share with it.

    state.json                          {"format": 1, "step": N, "updates": M, "recorder": {...}}
    state-00001-of-00002.safetensors    weight/NAME, exp_avg/NAME, exp_avg_sq/NAME of each parameter NAME
    buffers.safetensors                 buffer/NAME: BatchNorm's running statistics

Tensors are whole and float32 (buffers as they are), whatever ZeRO stage and number of processes wrote them, so that any
other may go on. Nothing is pickled: a checkpoint of a stranger holds numbers, and no code. `updates` are the steps that
moved the weights, AdamW's own count; before the first there are no moments. Learning rate, directions, augmentation and
the position in the data are functions of the step, and need no state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pretrain.config import PretrainConfig, preset_warmup
from pretrain.data.tokenizer import identity, trained_size
from pretrain.zero import MOMENTS, Engine, load_states, updates, whole_states
from vlm.distributed import all_items, is_main, on_main, rank, world_size
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.run.branch import branch
from vlm.run.changes import Changes
from vlm.run.checkpoints import Checkpoints, settings_at
from vlm.run.resume import starting_step
from vlm.run.schedule import RATE, same_past
from vlm.run.settings import trajectory
from vlm.run.steps import committed_steps

HINTS = {"steps": "its decay has begun: from a checkpoint before, --branch RUN --branch-step N goes on exactly"}

STATE, BUFFERS = "state.json", "buffers.safetensors"
FORMAT = 1
FILE_BYTES = 1 << 30  # when a file has so much, the next one is begun: no process keeps more than that in memory


def open_checkpoints(run: Path, config: PretrainConfig, data: str, init: str | None = None) -> Checkpoints:
    """The checkpoints of a run with these settings on the data with fingerprint `data`, from weights of digest `init`.

    Raises: UserError if --allow-change names what cannot change.
    """
    settings = {**trajectory(config), "tokenizer": identity(config.tokenizer), "data_fingerprint": data}
    if init:
        settings["init"] = init
    # A tokenizer that is learnt from the captions would give other ids with other data.
    fixed = {"tokenizer", "init"} | ({"data_fingerprint"} if trained_size(config.tokenizer) else set())
    changes = Changes.of(config, {"data": "data_fingerprint"}, fixed, harmless=_harmless, hints=HINTS)
    return Checkpoints(run, settings, changes=changes, keep_every=config.keep_every)


def _harmless(step: int, old: dict, new: dict) -> tuple[str, ...]:
    """The settings of the schedule, if the steps that are done have the same rates by both."""
    return RATE if set(RATE) <= old.keys() and step <= new["steps"] and same_past(step, old, new) else ()


def keep_warmup(run: Path, config: PretrainConfig) -> PretrainConfig:
    """`config` with the warm-up that `run`, or the one it is to branch from, began with; collective.

    Only a warm-up that follows from a preset and the number of steps gives way to it.
    """

    def keep() -> PretrainConfig:
        if committed_steps(run / "checkpoints"):
            return _with_warmup_of(settings_at(run), config)
        if config.branch:
            return _with_warmup_of(settings_at(Path(config.branch), config.branch_step), config)
        return config

    return on_main(keep)


def branch_if_asked(run: Path, config: PretrainConfig, data: str, init: str | None = None) -> PretrainConfig:
    """Copy the checkpoint of --branch into `run` if it holds none yet -> the settings to go on with; collective.

    config: with the warm-up of the run that is branched from, since its settings are compared.
    Raises: UserError if they do not allow it, the checkpoint is damaged, or `run` holds a run already.
    """

    def copy() -> PretrainConfig:
        if not config.branch or committed_steps(run / "checkpoints"):
            return config
        source = Path(config.branch)
        step, _ = Checkpoints(source, {}).verified(config.branch_step, "--branch-step")
        branch(open_checkpoints(run, config, data, init), source, step, "encoder")
        return replace(config, resume="auto")

    return on_main(copy)


def _with_warmup_of(past: Mapping[str, Any], config: PretrainConfig) -> PretrainConfig:
    """`config` with the warm-up of the settings `past`, if its own is what the preset gives so many steps."""
    own = config.warmup_steps
    if any(name.replace("-", "_") == "warmup_steps" for name in config.allow_change):
        return config  # it is asked for
    if past.get("warmup_steps", own) == own or own != preset_warmup(config.preset, config.schedule, config.steps):
        return config
    kept = replace(config, warmup_steps=past["warmup_steps"])
    kept.check()
    print(f"the warm-up stays the run's own, {kept.warmup_steps} steps", flush=True)
    return kept


def save(engine: Engine, checkpoints: Checkpoints, step: int, recorder: dict[str, Any]) -> None:
    """Commit the engine's state after `step` steps; collective. recorder: what `Recorder.state` gave."""

    model: Any = engine.module

    def fill(partial: Path) -> None:
        _write_parameters(engine, partial)
        if is_main():
            buffers = {f"buffer/{name}": value.cpu() for name, value in _buffers(model)}
            save_file(buffers, partial / BUFFERS)
            state = {"format": FORMAT, "step": step, "updates": updates(engine), "recorder": recorder}
            write_json(partial / STATE, state)

    checkpoints.save(step, fill)


def _write_parameters(engine: Engine, folder: Path) -> None:
    """Write this rank's share of the parameters, file by file; collective.

    Gathering a parameter takes all ranks. So one whose disk refuses still takes part in it to the end, and raises then.
    """
    model: Any = engine.module
    sizes = [_shape(parameter).numel() * 4 * (1 + len(MOMENTS)) for parameter in model.parameters()]
    numbers = file_numbers(sizes, world_size())
    total = (max(numbers) // world_size() + 1) * world_size()
    problem: Exception | None = None
    for turn, members in groupby(zip(numbers, whole_states(engine)), lambda member: member[0] // world_size()):
        own_file, own = turn * world_size() + rank(), {}
        for number, (name, state) in members:
            if number == own_file:
                own |= {f"{kind}/{name}": value.cpu().contiguous() for kind, value in state.items()}
        try:
            save_file(own, folder / f"state-{own_file + 1:05}-of-{total:05}.safetensors")
        except (OSError, SafetensorError) as error:
            problem = problem or error
    if problem:
        raise problem


def file_numbers(sizes: Sequence[int], processes: int) -> list[int]:
    """The file that each parameter goes into, from its bytes: file k is written by process k % `processes`.

    A parameter goes to the emptiest of `processes` files that are filled side by side. When all of them have
    FILE_BYTES, the next ones are begun.
    """
    numbers, first, filled = [], 0, [0] * processes
    for size in sizes:
        if min(filled) >= FILE_BYTES:
            first, filled = first + processes, [0] * processes
        emptiest = filled.index(min(filled))
        filled[emptiest] += size
        numbers.append(first + emptiest)
    return numbers


def resume(engine: Engine, checkpoints: Checkpoints, config: PretrainConfig) -> tuple[int, dict[str, Any] | None]:
    """Load the newest whole checkpoint as --resume asks -> the step to go on with, the recorder's state; collective.

    An untrained encoder (--steps 0) may be replaced by a run that starts anew, a trained one never.
    Raises: UserError if --resume does not allow what is there, the run has done more steps, or a process cannot load
    the checkpoint; SystemExit(2) then on all ranks but the first.
    """
    step = starting_step(checkpoints, config.resume, "encoder", worthless=_untrained)
    if step is None:
        return 0, None
    if step > config.steps:
        problem = f"{checkpoints.run} is at step {step} already: give --steps {step} or more, or another --out"
        raise UserError(problem) if is_main() else SystemExit(2)
    folder = checkpoints.path(step)
    if not all(all_items([(folder / STATE).is_file()])):
        missing = f"{folder}, which the first one found whole"
        problem = UserError(f"a process cannot load {missing}: put --out on storage that all nodes share")
        raise problem if is_main() else SystemExit(2)
    model: Any = engine.module
    state = on_main(lambda: checked(folder, model))
    with Stored(folder) as stored:
        load_states(engine, state["updates"], stored.of)
        _load_buffers(model, stored)
    if is_main():
        print(f"resuming {checkpoints.run} at step {step} of {config.steps}", flush=True)
    return step, state["recorder"]


@torch.no_grad()
def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Give a model the weights and buffers of a verified checkpoint. Raises: UserError if it is of another model."""
    checked(folder, model)
    with Stored(folder) as stored:
        for name, parameter in model.named_parameters():
            parameter.copy_(stored.tensor(f"weight/{name}"))
        _load_buffers(model, stored)


class Stored(ExitStack):
    """The tensors in the files of a checkpoint, read when they are asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self._file_of: dict[str, Any] = {}  # tensor -> the open file that holds it
        for path in sorted(folder.glob("*.safetensors")):
            file = self.enter_context(safe_open(path, "pt"))
            self._file_of |= dict.fromkeys(file.keys(), file)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self._file_of.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._file_of[name].get_tensor(name)

    def of(self, parameter: str) -> dict[str, torch.Tensor]:
        """Weight and moments of a parameter, by kind."""
        names = {kind: f"{kind}/{parameter}" for kind in ("weight", *MOMENTS)}
        return {kind: self.tensor(name) for kind, name in names.items() if name in self._file_of}


def checked(folder: Path, model: torch.nn.Module) -> dict[str, Any]:
    """state.json of a checkpoint. Raises: UserError if it is none of ours, or its tensors are not those of `model`."""
    state = read_json(folder / STATE)
    if not _is_state(state) or folder.name != f"step_{state['step']}":
        raise UserError(f"{folder / STATE} is not what pretraining writes: give another --out")
    try:
        with Stored(folder) as stored:
            found = stored.shapes()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder} cannot be read ({error}): give another --out") from None
    wanted = dict(_wanted(model, moments=state["updates"] > 0))
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        raise UserError(
            f"{folder} is not of the model of this run: {wrong[0]} is {found.get(wrong[0], 'missing')}, needed is "
            f"{wanted.get(wrong[0], 'none')} ({len(wrong)} tensors differ): give another --out"
        )
    return state


def _is_state(state: Any) -> bool:
    """Whether a value from state.json has the form that `save` gives it."""
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("recorder"), dict):
        return False
    failures, peaks, warning = (state["recorder"].get(name) for name in ("failures", "peaks", "warning"))
    counts = (state.get("step"), state.get("updates"), failures)
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and isinstance(peaks, dict)
        and all(isinstance(peak, float) for peak in peaks.values())
        and isinstance(warning, str | None)
    )


def _wanted(model: torch.nn.Module, moments: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that a checkpoint of `model` holds. moments: whether weights have moved."""
    for name, parameter in model.named_parameters():
        for kind in ("weight", *(MOMENTS if moments and parameter.requires_grad else ())):
            yield f"{kind}/{name}", tuple(_shape(parameter))
    for name, buffer in _buffers(model):
        yield f"buffer/{name}", tuple(buffer.shape)


def _shape(parameter: Any) -> torch.Size:
    """The whole shape: ZeRO-3 leaves nothing of it in the tensor."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Those that belong to the model's state; they are equal on all ranks."""
    saved = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _load_buffers(model: torch.nn.Module, stored: Stored) -> None:
    for name, buffer in _buffers(model):
        buffer.copy_(stored.tensor(f"buffer/{name}"))


def _untrained(encoder: Path) -> bool:
    """Whether a run of --steps 0 wrote this encoder."""
    try:
        return read_json(encoder / "config.json")["training"]["steps"] == 0
    except (UserError, KeyError, TypeError):
        return False
