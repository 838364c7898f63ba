"""What scripts/gpu_check.py can be asked. `--help` needs no torch."""

from dataclasses import dataclass

from vlm.run.settings import setting

# In the order in which they are run: each is the file scripts/gpu/NAME.py.
PARTS = ("ceilings", "sigreg", "step", "host", "pretrain", "tars", "bridge", "resume")


@dataclass(frozen=True)
class GpuCheck:
    """Flags of scripts/gpu_check.py."""

    out: str = setting(
        "runs/gpu", help="gpu_check.json is there, with a row as soon as it is known; others stay", metavar="DIR"
    )
    parts: tuple[str, ...] = setting(PARTS, help="what to check; see above", choices=PARTS)
    minutes: float = setting(6.0, help="no part is begun after so many", above=0)
    patience: float = setting(240.0, help="seconds that one command of tars and resume may take", above=0)
    device: str = setting("cuda", help="cuda, cuda:N, or cpu to try the script")
    smoke: bool = setting(False, help="tiny sizes, to see that every part runs")
