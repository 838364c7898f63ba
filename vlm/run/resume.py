"""--resume: whether a run goes on with what its folder holds, starts anew there, or is refused."""

from collections.abc import Callable
from pathlib import Path

from vlm.distributed import on_main
from vlm.errors import UserError
from vlm.files import read_jsonl
from vlm.run.checkpoints import Checkpoints
from vlm.run.steps import check_resume


def starting_step(
    checkpoints: Checkpoints, resume: str, result: str, worthless: Callable[[Path], bool] = lambda folder: False
) -> int | None:
    """The step of the checkpoint to load, None to start at 0; collective, rank 0 decides.

    resume: auto, required or never. result: the folder in the run that holds what training made, such as "encoder". A
    run that starts anew never replaces it, unless it is `worthless`.
    Raises: UserError if the folder holds something that `resume` does not allow for.
    """

    def choose() -> int | None:
        run, step = checkpoints.run, checkpoints.newest()
        check_resume(run, resume, step)
        if step is None:
            _start_anew(run, resume, result, worthless)
        else:
            checkpoints.set_aside(step)
        return step

    return on_main(choose)


def _start_anew(run: Path, resume: str, result: str, worthless: Callable[[Path], bool]) -> None:
    """Start in a folder without checkpoints, and lose nothing that it holds.

    A run that was killed before its first checkpoint starts again, as a queue that restarts it expects. Its records are
    kept in metrics.old-N.jsonl.
    """
    metrics, made = run / "metrics.jsonl", run / result
    records = metrics.exists() and any(True for _ in read_jsonl(metrics))
    found = [name for name, there in ((f"{result}/", made.exists()), ("metrics.jsonl", records)) if there]
    if found and resume == "never":
        raise UserError(f"{run} holds a run's {' and '.join(found)}: give another --out, or remove it")
    if made.exists() and not worthless(made):
        raise UserError(
            f"{run} holds a trained {result}/ and no checkpoint to go on with: give another --out, or move it away"
        )
    if records:
        old = next(path for n in range(1, 10**6) if not (path := run / f"metrics.old-{n}.jsonl").exists())
        metrics.rename(old)
        print(f"no checkpoint in {run}: starting anew, the records of before are in {old}", flush=True)
