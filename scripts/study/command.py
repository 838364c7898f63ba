"""scripts/study.py: list, run or hand over the cells of a study, then write its tables."""

import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from study.cells import Cell, cells, encoders, uses_world
from study.checks import check
from study.lanes import ROOT, record, run_all, run_logged
from study.settings import StudySettings, as_flags, split_flags
from vlm.cores import cores
from vlm.errors import UserError
from vlm.files import write_file, write_json

REPORT = "report"


def run(settings: StudySettings) -> None:
    """Raises: UserError if the settings name what there is not, or a cell failed."""
    settings = replace(settings, out=str(Path(settings.out).resolve()), world=str(Path(settings.world).resolve()))
    out, planned = Path(settings.out), cells(settings)
    check(settings, planned)
    if unknown := [name for name in settings.only if name not in planned and name != REPORT]:
        raise UserError(f"--only {unknown[0]}: the cells are {', '.join(planned)}, and {REPORT}")
    wanted = [cell for name, cell in planned.items() if not settings.only or name in settings.only]
    missing = [cell for cell in wanted if record(out, cell) is None]
    if missing:
        from study.places import check_places  # imports transformers, which a report does not need

        check_places(settings, missing)
    if settings.dry_run:
        print(priced(out, planned, wanted, lanes=len(_lanes(settings))))
        return
    if missing and uses_world(settings) and not (Path(settings.world) / "world.json").exists():
        print(f"drawing {settings.world}", flush=True)
        run_logged(out / "logs" / "world.log", ("scripts/make_world.py", settings.world))
    if settings.slurm:
        submit(settings, missing)
        return
    try:
        if missing:
            print(f"{len(missing)} of {len(wanted)} cells to run; their output: {out / 'logs'}", flush=True)
            run_all(out, missing, _lanes(settings), lambda text: print(text, flush=True))
    except UserError:  # what is done is shown nevertheless, and no mistake there hides this one
        if not settings.only:
            try:
                report(settings)
            except UserError as error:
                print(f"no report: {error}", flush=True)
        raise
    if not settings.only or REPORT in settings.only:
        report(settings)


def _lanes(settings: StudySettings) -> list[dict[str, str]]:
    """The environment of each lane: a GPU each, or a core."""
    import torch

    gpus = torch.cuda.device_count()
    mine = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]  # the user's choice
    names = mine if len(mine) == gpus else [str(number) for number in range(gpus)]
    count = settings.lanes or gpus or len(cores())
    return [{"CUDA_VISIBLE_DEVICES": names[number % gpus]} if gpus else {} for number in range(count)]


def priced(out: Path, planned: Mapping[str, Cell], wanted: Sequence[Cell], lanes: int) -> str:
    """The wanted cells with what they need, and the time that each took or, by finished ones of its kind, will take."""
    done = {name: found["seconds"] for name, cell in planned.items() if (found := record(out, cell))}
    kinds: dict[str, list[float]] = {}
    for name, seconds in done.items():
        kinds.setdefault(planned[name].kind, []).append(seconds)
    lines, left, unmeasured = [], 0.0, 0
    for cell in wanted:
        known = kinds.get(cell.kind)
        if cell.name in done:
            time = f"done, {done[cell.name]:.0f} s"
        elif known:
            time = f"about {statistics.mean(known):.0f} s"
            left += statistics.mean(known)
        else:
            time, unmeasured = "not measured yet", unmeasured + 1
        lines.append(f"{cell.name:<44} {time}" + (f", after {', '.join(cell.needs)}" if cell.needs else ""))
        lines += [f"    python {shlex.join(command)}" for command in cell.commands]
    missing = sum(cell.name not in done for cell in wanted)
    total = f"{missing} of {len(wanted)} cells to run in {lanes} lanes"
    if left:
        total += f": about {left / 60 / lanes:.0f} min"
    if unmeasured:
        total += f"; {unmeasured} of a kind that was not run here yet: one cell by --only measures it"
    return "\n".join([*lines, total])


def submit(settings: StudySettings, missing: Sequence[Cell]) -> None:
    """Start each cell as a job of its own after those that it needs, and the report after all.

    Raises: UserError if the command is not there, or refuses a job.
    """
    jobs: dict[str, str] = {}
    for cell in missing:
        needs = [jobs[name] for name in cell.needs if name in jobs]
        jobs[cell.name] = _submit(settings, cell.name, "afterok:" + ":".join(needs) if needs else "")
        print(f"{cell.name}: job {jobs[cell.name]}", flush=True)
    job = _submit(settings, REPORT, "afterany:" + ":".join(jobs.values()) if jobs else "")
    print(f"{REPORT}: job {job}; call this again for jobs that failed")


def _submit(settings: StudySettings, name: str, dependency: str) -> str:
    """sbatch's number of the job that runs one cell."""
    command = split_flags("--slurm", settings.slurm)
    if not command:
        raise UserError("--slurm: give the command that submits a job, such as sbatch")
    if shutil.which(command[0]) is None:
        raise UserError(f"--slurm {settings.slurm}: there is no {command[0]} here")
    again = [sys.executable, str(ROOT / "scripts/study.py"), *as_flags(settings), "--only", name]
    log = Path(settings.out) / "logs" / f"{name}.slurm"
    log.parent.mkdir(parents=True, exist_ok=True)
    # A job whose dependency has failed would else wait for ever, and the report for it.
    flags = [
        "--kill-on-invalid-dep=yes",
        "--parsable",
        f"--job-name={name}",
        f"--chdir={Path.cwd()}",
        f"--output={log}",
    ]
    flags += [f"--dependency={dependency}"] if dependency else []
    done = subprocess.run([*command, *flags, f"--wrap={shlex.join(again)}"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]} refused {name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]


def report(settings: StudySettings) -> None:
    """Write study.md, .json, .png, .html and the paper's table from what is done, and print the table."""
    from study.page import write_page
    from study.summary import left_out, probes, summarise
    from study.tables import as_markdown, save_picture

    out, table, probed = Path(settings.out), summarise(settings), probes(settings)
    if others := left_out(settings):
        print(f"left out, for they were run with other settings than these: {', '.join(others)}")
    if not table["rows"]:
        print("nothing is scored yet")
        return
    kept = {
        name: value for name, value in asdict(settings).items() if name not in ("dry_run", "only", "slurm", "study")
    }
    write_json(out / "study.json", {"settings": kept, **table, "probes": probed})
    text = as_markdown(table, probed)
    write_file(out / "study.md", text)
    save_picture(table, out / "study.png")
    write_page(settings, table, probed, kept, out / "study.html")
    print("\n" + text)
    if any(each.kind == "random" for each in encoders(settings).values()):
        _paper_table(settings)
    print(f"written: {out / 'study.html'}, study.md, .json and .png")


def _paper_table(settings: StudySettings) -> None:
    """Print and write the paper's table of gains over random weights, where the study has what belongs into it."""
    from study.paper.output import write_table
    from study.paper.runs import read_runs
    from study.paper.table import make_table
    from study.summary import rows

    folders = [folder.parent for of_seeds in rows(settings).values() for folder in of_seeds.values()]
    try:
        runs, left_out = read_runs(folders, "eval")
        table = make_table(runs, reported=False)
    except UserError as error:
        print(f"the paper's table is of one run an objective and of objectives alone, so there is none here: {error}")
        return
    print(write_table({**table, "left_out": left_out}, Path(settings.out)))
