"""Draw the embedded world: small scenes with captions and questions, in the files of GQA, VQAv2 and POPE.

Beside them lie small labelled sets for pretrain/probe.py, in the layouts of ImageNet, ADE20K and ImageNet-9.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/make_world.py data/world
  python scripts/make_world.py data/small --scenes 2000 --qa-scenes 500 --seed 3
"""


@dataclass(frozen=True)
class WorldSettings:
    out: str = setting(help="folder to make; one with other contents is refused", positional=True, metavar="OUT")
    scenes: int = setting(16_000, help="training scenes", least=4, most=1_000_000)
    seed: int = setting(0, help="every scene follows from seed, split and index")
    qa_scenes: int = setting(2_500, help="training scenes with questions, at most all of them", least=1)


def main() -> None:
    settings = parse(WorldSettings, prog="scripts/make_world.py", about=__doc__, examples=EXAMPLES)
    from world.making import make  # after parsing: --help does not wait for it

    started = time.perf_counter()
    asked = min(settings.qa_scenes, settings.scenes)
    rate = make(Path(settings.out).resolve(), settings.scenes, settings.seed, asked)
    if rate is None:
        print(f"{settings.out} already holds this world: reused")
    else:
        print(f"{settings.out} made in {time.perf_counter() - started:.1f} s; {rate:.0f} scenes/s drawn and packed")


if __name__ == "__main__":
    run_command(main)
