"""Runs the parts of the check one by one while there is time."""

import importlib
import sys
import time
import traceback

import torch

from gpu.check import Check
from gpu.settings import GpuCheck
from vlm.cores import cores
from vlm.errors import UserError


def run(settings: GpuCheck) -> None:
    """Check the device; exit with 1 if a row did not pass.

    Raises: UserError if there is no such device, or OUT has the rows of another one.
    """
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: --smoke --device cpu tries the script")
    check = Check(settings)
    check.go_on(torch=str(torch.__version__), cpus=len(cores()), smoke=settings.smoke)
    start = time.perf_counter()
    for part in settings.parts:
        begun = time.perf_counter()
        if begun - start > 60 * settings.minutes:
            check.leave_out(part, f"--minutes {settings.minutes:g} are over: --parts {part}")
            continue
        check.begin(part)
        try:
            importlib.import_module(f"gpu.{part}").measure(check)
        except Exception as problem:  # of any kind: the other parts are still of use
            traceback.print_exc(file=sys.stderr)
            words = " ".join(f"{type(problem).__name__}: {problem}".split())
            check.note(part, "failed", False, error=words[:400])
        check.free()
        check.note("seconds", part, seconds=round(time.perf_counter() - begun, 1))
    failed = check.failed()
    print(f"{len(failed)} rows did not pass: {'; '.join(failed)}" if failed else "all checks passed")
    if failed:
        sys.exit(1)
