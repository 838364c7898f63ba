"""The processor's cores that this process may use."""

import os


def cores() -> set[int]:
    """The cores that this process is tied to; all of the machine where the system does not say, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cores_of_this_process() -> int:
    """The cores that this process may use for itself: its share, if several of a machine train together."""
    return max(1, len(cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
