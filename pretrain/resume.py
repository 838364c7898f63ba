"""Whether a run continues what its folder holds, starts anew in it, or must not: --resume, as rank 0 decides."""

from pathlib import Path

from pretrain import checkpoints
from pretrain.config import PretrainConfig
from vlm.distributed import is_main, on_main, world_size
from vlm.errors import UserError
from vlm.logs import read_json, read_jsonl


def resume_step(engine, run: Path, config: PretrainConfig, settings: dict) -> int:
    """Load the newest whole checkpoint as --resume asks, and return the step to go on with; collective."""
    step = on_main(lambda: _choose(run, config, settings, world_size()))
    if step is None:
        return 0
    path, _ = engine.load_checkpoint(str(run / "checkpoints"), tag=f"step_{step}")
    if path is None:
        raise UserError(
            f"a process cannot load {run}/checkpoints/step_{step}, which the first one found whole: "
            "put --out on storage that all nodes share"
        )
    if is_main():
        print(f"resuming {run} at step {step} of {config.steps}", flush=True)
    return step


def _choose(run: Path, config: PretrainConfig, settings: dict, processes: int) -> int | None:
    """The step to resume at, or None to start; makes room for either without losing what the folder holds."""
    step = checkpoints.newest(run, settings, processes)
    if config.resume == "never" and step is not None:
        raise UserError(f"{run} holds a run at step {step}: give another --out, or --resume auto to continue it")
    if config.resume == "required" and step is None:
        raise UserError(f"--resume required, but {run} has no checkpoint: use --resume auto to start one")
    if step is None:
        _start_anew(run, config.resume)
    else:
        checkpoints.set_aside(run, step)
    return step


def _start_anew(run: Path, resume: str) -> None:
    """Begin where no checkpoint is.

    A trained encoder is not replaced. A run that was killed before its first checkpoint starts again, as a queue that
    restarts it expects; its records are kept in metrics.old-N.jsonl. An untrained encoder (--steps 0) is no loss.
    """
    metrics, encoder = run / "metrics.jsonl", run / "encoder"
    records = metrics.exists() and any(True for _ in read_jsonl(metrics))
    found = [name for name, there in (("encoder/", encoder.exists()), ("metrics.jsonl", records)) if there]
    if found and resume == "never":
        raise UserError(f"{run} holds a run's {' and '.join(found)}: give another --out, or remove it")
    if encoder.exists() and not _untrained(encoder):
        raise UserError(
            f"{run} holds a trained encoder/ and no checkpoint to go on with: give another --out, or move it away"
        )
    if records:
        old = next(path for n in range(1, 10**6) if not (path := run / f"metrics.old-{n}.jsonl").exists())
        metrics.rename(old)
        print(f"no checkpoint in {run}: starting anew, the records of before are in {old}", flush=True)


def _untrained(encoder: Path) -> bool:
    try:
        return read_json(encoder / "config.json")["training"]["steps"] == 0
    except (UserError, KeyError, TypeError):
        return False
