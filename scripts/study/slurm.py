"""A study's cells as SLURM jobs, each after those that it needs."""

import getpass
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from study.cells import Cell
from study.lanes import ROOT, made_by
from study.settings import StudySettings, as_flags, split_flags
from vlm.errors import UserError
from vlm.files import read_json, write_json

REPORT = "report"  # the job that writes the tables
JOBS = "slurm.json"  # in OUT: cell -> the job that was started for it last, and a digest of what it is to do


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
    out = Path(settings.out)
    jobs = _waiting(out)
    for cell in missing:
        made_by_it = hashlib.sha256(json.dumps(made_by(out, cell), sort_keys=True).encode()).hexdigest()
        if job := jobs.get(cell.name):
            if job[1] != made_by_it:
                raise UserError(f"{cell.name}: job {job[0]} is of other settings: scancel {job[0]}, or wait for it")
            print(f"{cell.name}: job {job[0]} still waits or runs", flush=True)
            continue
        needs = [jobs[name][0] for name in cell.needs if name in jobs]
        try:
            jobs[cell.name] = _submit(settings, command, cell.name, "afterok", needs), made_by_it
        except UserError as error:
            already = " ".join(job for job, _ in jobs.values()) or "nothing"
            raise UserError(f"{error}; queued are {already} (scancel ends them)") from None
        write_json(out / JOBS, jobs)
        print(f"{cell.name}: job {jobs[cell.name][0]}", flush=True)
    if old := jobs.pop(REPORT, None):  # it does not wait for the jobs of this call
        subprocess.run(["scancel", old[0]], capture_output=True)
    jobs[REPORT] = _submit(settings, command, REPORT, "afterany", [job for job, _ in jobs.values()]), ""
    write_json(out / JOBS, jobs)
    print(f"{REPORT}: job {jobs[REPORT][0]}; call this again for jobs that failed")


def _waiting(out: Path) -> dict[str, tuple[str, str]]:
    """Cell -> its job of an earlier call that waits or runs, and a digest of what it was to do.

    Raises: UserError if there are jobs of earlier calls, and SLURM does not say what became of them.
    """
    file = out / JOBS
    started = read_json(file) if file.is_file() else {}
    if not started or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--format=%i", f"--user={getpass.getuser()}"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"squeue does not say which jobs of {file} still wait ({asked.stderr.strip()}): try again")
    queued = set(asked.stdout.split())
    return {name: (job, digest) for name, (job, digest) in started.items() if job in queued}


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
