"""The loader processes of a rank: how many, how they start, their shared memory, and what their death says."""

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.data.augment import crop_counts
from vlm.cores import cores
from vlm.distributed import all_items, world_size
from vlm.errors import UserError, one_line

SHARED = Path("/dev/shm")
# What they read is shared with them, not pickled: manifests, open shards, closures. Python 3.14 would start them anew.
START = "fork" if sys.platform == "linux" else None
AHEAD = 2  # batches of a worker that lie in shared memory before they are needed, as DataLoader has it


def batch_bytes(config: PretrainConfig, processes: int) -> int:
    """Bytes of the pixels of a process's batch, one each."""
    pixels = sum(views * 3 * side**2 for side, views in crop_counts(config).items())
    return config.batch_size // processes * pixels


def local_processes() -> int:
    """Processes of the run on this machine; collective."""
    return all_items([socket.gethostname()]).count(socket.gethostname())


def loader_workers(config: PretrainConfig) -> int:
    """--workers, or this machine's cores divided among its processes, less the one that each needs; collective.

    The cores are those that the processes may use together: a launcher may have tied each to some of its own.
    Raises: UserError if the batches of so many workers do not fit into shared memory.
    """
    hosts = all_items([(socket.gethostname(), cores())])
    here = [tied for host, tied in hosts if host == socket.gethostname()]
    workers = config.workers if config.workers is not None else max(1, len(set().union(*here)) // len(here) - 1)
    if workers and SHARED.is_dir():
        each = AHEAD * batch_bytes(config, world_size()) * len(here)
        check_shared_memory(workers, each, shutil.disk_usage(SHARED).free)
    return workers


def check_shared_memory(workers: int, each: int, free: int) -> None:
    """Raise a UserError if `workers` of every process fill more than is `free`; each: bytes that one of each fills."""
    if workers * each > free:
        need = f"{workers} loader workers a process put up to {workers * each / 1e9:.1f} GB of batches into {SHARED}"
        fewer = f"--workers {free // each}" if free >= each else "--workers 0, which loads in the process itself"
        raise UserError(f"{need}, which has {free / 1e9:.1f} GB free: give {fewer}, or enlarge it (docker --shm-size)")


@contextmanager
def dead_loaders_told(reading: bool = False, remedy: str = "lower --workers, then resume") -> Iterator[None]:
    """Turn the death of a loader worker, which torch raises wherever the process is, into a `UserError`.

    reading: whether inside nothing is done but to read from workers: a connection that breaks then is such a death too.
    What is raised by the code of a worker is another matter: torch begins it with "Caught".
    Raises: UserError in place of what torch raised.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        broken = reading and not isinstance(error, RuntimeError) and not str(error).startswith("Caught ")
        if not broken and "DataLoader worker (pid" not in str(error):
            raise
        problem = "a loader worker died, often for want of memory"
        raise UserError(f"{problem}: {remedy} ({one_line(error, most=None)})") from error
