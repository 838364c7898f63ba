"""What a pretraining checkpoint holds, DeepSpeed's own files, and what a continuation must share with it."""

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import PretrainConfig
from pretrain.data.tokenizer import identity
from vlm.distributed import is_main
from vlm.errors import UserError
from vlm.files import read_json
from vlm.run.checkpoints import Checkpoints
from vlm.run.resume import starting_step
from vlm.run.settings import trajectory

if TYPE_CHECKING:  # what a checkpoint must share is read without DeepSpeed
    from pretrain.zero import Engine


def open_checkpoints(run: Path, config: PretrainConfig, data: str) -> Checkpoints:
    """The checkpoints of a run with these settings on the data with fingerprint `data`."""
    settings = {**trajectory(config), "tokenizer": identity(config.tokenizer), "data_fingerprint": data}
    return Checkpoints(run, settings, same_processes=True)


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
