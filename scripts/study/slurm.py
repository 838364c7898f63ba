"""A study's cells as SLURM jobs, each after those that it needs."""

import getpass
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from study.cells import Cell
from study.lanes import ROOT
from study.settings import StudySettings, as_flags, split_flags
from vlm.errors import UserError
from vlm.files import read_json, write_json

REPORT = "report"  # the job that writes the tables
JOBS = "slurm.json"  # in OUT: cell -> the job that was started for it last


def submit(settings: StudySettings, missing: Sequence[Cell]) -> None:
    """Start each cell as a job of its own after those that it needs, and the report after all.

    A cell whose job of an earlier call still waits or runs gets no second one.
    Raises: UserError if the command is not there, or refuses a job.
    """
    command = split_flags("--slurm", settings.slurm)
    if not command:
        raise UserError("--slurm: give the command that submits a job, such as sbatch")
    if shutil.which(command[0]) is None:
        raise UserError(f"--slurm {settings.slurm}: there is no {command[0]} here")
    file = Path(settings.out) / JOBS
    queued = _queued()
    jobs = {name: job for name, job in (read_json(file) if file.is_file() else {}).items() if job in queued}
    for cell in missing:
        if cell.name in jobs:
            print(f"{cell.name}: job {jobs[cell.name]} still waits or runs", flush=True)
            continue
        needs = [jobs[name] for name in cell.needs if name in jobs]
        try:
            jobs[cell.name] = _submit(settings, command, cell.name, "afterok", needs)
        except UserError as error:
            already = " ".join(jobs.values())
            raise UserError(
                f"{error}; queued so far: {already or 'nothing'}" + (" (scancel ends them)" * bool(jobs))
            ) from None
        write_json(file, jobs)
        print(f"{cell.name}: job {jobs[cell.name]}", flush=True)
    before = [jobs[cell.name] for cell in missing]
    if REPORT in jobs:  # it waits for jobs of that call alone
        subprocess.run(["scancel", jobs[REPORT]], capture_output=True)
    jobs[REPORT] = _submit(settings, command, REPORT, "afterany", before)
    write_json(file, jobs)
    print(f"{REPORT}: job {jobs[REPORT]}; call this again for jobs that failed")


def _queued() -> set[str]:
    """This user's jobs that wait or run; none if SLURM cannot be asked."""
    if shutil.which("squeue") is None:
        return set()
    command = ["squeue", "--noheader", "--format=%i", f"--user={getpass.getuser()}"]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def _submit(settings: StudySettings, command: Sequence[str], name: str, condition: str, jobs: Sequence[str]) -> str:
    """sbatch's number of the job that runs one cell. condition: what must have come of `jobs` before it starts."""
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
    flags += [f"--dependency={condition}:{':'.join(jobs)}"] if jobs else []
    done = subprocess.run([*command, *flags, f"--wrap={shlex.join(again)}"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]} refused {name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]
