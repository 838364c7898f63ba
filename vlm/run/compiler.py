"""What torch.compile needs of a machine besides torch: a compiler and Python's headers, for a GPU also Triton."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from importlib.util import find_spec

import torch

from vlm.distributed import all_items, on_main
from vlm.errors import UserError


@cache
def lacking(kind: str) -> str | None:
    """What torch.compile lacks on this machine for devices of a kind ("cuda", "cpu"), and what to do; None if nothing.

    Triton's driver for a GPU is a C file that is compiled at a first start, kernels for a CPU are C++, and both include
    Python.h. Neither is looked for before the first step, which would then fail. So it is tried here, on that line.
    """
    if kind not in ("cuda", "cpu"):
        return None
    if kind == "cuda" and find_spec("triton") is None:
        return "torch.compile needs Triton: pip install triton"
    name, command = _compiler(kind)
    arguments = ["-E", "-x", name.lower(), "-I", _headers(), "-"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    install = f"install {'gcc' if name == 'C' else 'g++'} and {version}-dev, or what your system calls them"
    try:
        result = subprocess.run([*command, *arguments], input=b"#include <Python.h>\n", capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return f"torch.compile needs a {name} compiler, and {' '.join(command)!r} does not run: {install}"
    if result.returncode:
        return f"torch.compile needs Python.h, which {' '.join(command)!r} cannot read in {_headers()}: {install}"
    return None


def _compiler(kind: str) -> tuple[str, list[str]]:
    """A language, and the command that compiles it, as Triton and torch choose it."""
    if kind == "cuda":
        return "C", [os.environ.get("CC", shutil.which("gcc") or shutil.which("clang") or "gcc")]
    return "C++", shlex.split(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def _headers() -> str:
    """The folder of Python.h, as Triton finds it: Debian's own Python names another one, for packages by pip."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]


def lacking_anywhere(device: torch.device) -> str | None:
    """`lacking` of the first process that lacks something, so that all do the same; collective."""
    return next(filter(None, all_items([lacking(device.type)])), None)


def check_compiler(device: torch.device, otherwise: str = "leave it out") -> None:
    """Raise a `UserError` on rank 0, and end the others, if --compile cannot work on `device`; collective.

    otherwise: what else a user can do.
    """

    def refuse() -> None:
        raise UserError(f"--compile: {lack}, or {otherwise}")

    lack = lacking_anywhere(device)
    if lack:
        on_main(refuse)
