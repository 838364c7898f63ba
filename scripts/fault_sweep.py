"""Does everything to the real commands that must not harm a run, and prints what became of it: fault, seed, outcome.

Kills, signals, numbers that are none, damaged files, hostile input: two CPU ranks of a tiny model, every fault made
from its seed, at a named point of a named step. /dev/shm is the sweep's own where the system allows it. The exit code
is 1 if one fault was not survived. scripts/faults/ has a file for each kind.
"""

import sys

from faults.fault import Sweep

from vlm.errors import run_command
from vlm.run.settings import parse

EXAMPLES = """examples:
  python scripts/fault_sweep.py                          # all of them, an hour on two free cores
  python scripts/fault_sweep.py --only kills --kills 4
  python scripts/fault_sweep.py --only "SIGINT" --keep /tmp/failed
  python scripts/fault_sweep.py --first                  # one seed of every fault
"""


def main() -> None:
    settings = parse(Sweep, prog="scripts/fault_sweep.py", about=__doc__, examples=EXAMPLES)
    from faults.sweep import run, with_private_shared_memory

    with_private_shared_memory()
    if not run(settings):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
