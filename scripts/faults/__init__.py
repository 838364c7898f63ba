"""Faults that a run must survive, one file a kind; scripts/fault_sweep.py runs them all and prints a table.

Add a kind: write scripts/faults/KIND.py with a function

    def faults(settings: Sweep) -> Iterator[Fault]:
        for seed in range(200):
            yield Fault("bit flipped in RUN/encoder", seed, partial(flip, seed))

and name KIND in `faults.sweep.KINDS`. Add a row to a kind: yield one more `Fault`. Each is a function of an empty
folder of its own, makes the fault there from its seed, and returns what happened in a few words, for the table's last
column. What must not happen raises `Failed` (see `demand`), which makes the row a FAIL and the sweep's exit code 1. A
fault never sleeps: it strikes at a named point (see `faults.injected`). What many faults start from, such as a trained
run, is made once by a function under `functools.cache` in `settings.shared`, and copied before it is damaged.
"""
