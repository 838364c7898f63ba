"""The embedded world, drawn by the run that is given no other captions and finds none."""

import subprocess
import sys
from pathlib import Path

from pretrain.config import WORLD
from vlm.distributed import on_main
from vlm.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_world.py"


def draw_if_default(data: str) -> None:
    """Draw the embedded world if `data` is its default place and nothing is there yet; collective.

    Raises: UserError if it cannot be drawn.
    """
    if data == WORLD:
        on_main(_draw)


def _draw() -> None:
    """Draw by the script, in a process of its own: the packages import nothing from scripts/."""
    world = Path(WORLD).parent
    if Path(WORLD).exists():
        return
    if not SCRIPT.is_file():
        raise UserError(f"{WORLD} does not exist, and this installation has no {SCRIPT}: give --data, or use a clone")
    print(f"no data given: drawing the embedded world into {world} (some 15 s)", file=sys.stderr, flush=True)
    drawn = subprocess.run([sys.executable, str(SCRIPT), str(world)])
    if drawn.returncode != 0:
        raise UserError(f"the embedded world could not be drawn: see above, or run `python {SCRIPT} {world}`")
