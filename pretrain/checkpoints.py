"""What a pretraining checkpoint holds, DeepSpeed's own files, and what a continuation must share with it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import PretrainConfig, preset_warmup
from pretrain.data.tokenizer import identity, trained_size
from vlm.distributed import is_main, on_main
from vlm.errors import UserError
from vlm.files import read_json
from vlm.run.branch import branch
from vlm.run.checkpoints import Checkpoints
from vlm.run.resume import starting_step
from vlm.run.schedule import RATE, same_past
from vlm.run.settings import Changes, trajectory
from vlm.run.steps import committed_steps

HINTS = {"steps": "its decay has begun: from a checkpoint before, --branch RUN --branch-step N goes on exactly"}

if TYPE_CHECKING:  # what a checkpoint must share is read without DeepSpeed
    from pretrain.zero import Engine


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
    return Checkpoints(run, settings, same_processes=True, changes=changes, keep_every=config.keep_every)


def _harmless(step: int, old: dict, new: dict) -> tuple[str, ...]:
    """The settings of the schedule, if the steps that are done have the same rates by both."""
    return RATE if set(RATE) <= old.keys() and step <= new["steps"] and same_past(step, old, new) else ()


def settle(run: Path, config: PretrainConfig, data: str, init: str | None = None) -> PretrainConfig:
    """Branch from --branch if `run` holds no checkpoint yet; return the settings that the run goes on with; collective.

    A warm-up that follows from a preset and the number of steps stays the one that the run began with.
    """

    def choose() -> PretrainConfig:
        own = committed_steps(run / "checkpoints")
        if own:
            return _with_warmup_of(run / "checkpoints" / f"step_{own[-1]}", config)
        if not config.branch:
            return config
        step, folder = Checkpoints(Path(config.branch), {}, same_processes=False).verified(config.branch_step)
        settled = replace(_with_warmup_of(folder, config), resume="auto")
        branch(open_checkpoints(run, settled, data, init), Path(config.branch), step, "encoder")
        return settled

    return on_main(choose)


def _with_warmup_of(folder: Path, config: PretrainConfig) -> PretrainConfig:
    """`config` with the warm-up of a checkpoint's run, if its own is what the preset gives so many steps."""
    try:
        past = read_json(folder / "manifest.json")["config"]["warmup_steps"]
    except (UserError, KeyError, TypeError):
        return config  # damaged: it is dealt with when it is opened
    own = config.warmup_steps
    if past == own or own != preset_warmup(config.preset, config.schedule, config.steps):
        return config
    kept = replace(config, warmup_steps=past)
    kept.check()
    print(f"the warm-up stays the run's own, {past} steps", flush=True)
    return kept


def save(engine: "Engine", checkpoints: Checkpoints, step: int) -> None:
    """Commit the engine's state after `step` steps; collective."""

    def fill(partial: Path) -> None:
        engine.save_checkpoint(str(partial.parent), tag=partial.name, client_state={"step": step}, save_latest=False)

    checkpoints.save(step, fill)


def resume(engine: "Engine", checkpoints: Checkpoints, config: PretrainConfig) -> int:
    """Load the newest whole checkpoint as --resume asks, and return the step to go on with; collective.

    An untrained encoder (--steps 0) may be replaced by a run that starts anew, a trained one never.
    """
    step = starting_step(checkpoints, config.resume, "encoder", worthless=_untrained)
    if step is None:
        return 0
    if step > config.steps:
        problem = f"{checkpoints.run} is at step {step} already: give --steps {step} or more, or another --out"
        raise UserError(problem) if is_main() else SystemExit(2)
    path, _ = engine.load_checkpoint(str(checkpoints.folder), tag=f"step_{step}")
    if path is None:
        missing = f"{checkpoints.path(step)}, which the first one found whole"
        raise UserError(f"a process cannot load {missing}: put --out on storage that all nodes share")
    if is_main():
        print(f"resuming {checkpoints.run} at step {step} of {config.steps}", flush=True)
    return step


def _untrained(encoder: Path) -> bool:
    """Whether a run of --steps 0 wrote this encoder."""
    try:
        return read_json(encoder / "config.json")["training"]["steps"] == 0
    except (UserError, KeyError, TypeError):
        return False
