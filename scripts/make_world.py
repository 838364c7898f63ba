"""Draw the embedded world: small scenes with captions and questions, in the files of GQA, VQAv2 and POPE.

Beside them lie small labelled sets for pretrain/probe.py, in the layouts of ImageNet, ADE20K and ImageNet-9.
"""

import argparse
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from world.files import VERSION, write_world

from vlm.errors import UserError, run_command
from vlm.files import read_json

EPILOG = """examples:
  python scripts/make_world.py data/world
  python scripts/make_world.py data/small --scenes 2000 --qa-scenes 500 --seed 3
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; one with other contents is refused")
    parser.add_argument("--scenes", type=int, default=20_000, help="training scenes (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="every scene follows from seed, split, index (default 0)")
    parser.add_argument("--qa-scenes", type=int, default=4_000, help="training scenes with questions (default 4000)")
    args = parser.parse_args()
    if not 4 <= args.scenes <= 1_000_000 or args.qa_scenes < 1:
        raise UserError(f"--scenes {args.scenes} --qa-scenes {args.qa_scenes}: give 4 to 1000000 and at least 1")
    args.qa_scenes = min(args.qa_scenes, args.scenes)
    return args


def reusable(out: Path, asked: dict[str, int]) -> bool:
    """True where `out` is this very world, False where it is free; `UserError` where it is anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "world.json").is_file():
        raise UserError(f"{out} exists and is no world made by this script: name another folder or delete it")
    made = read_json(out / "world.json")
    different = [f"{name} {made.get(name)}, asked {value}" for name, value in asked.items() if made.get(name) != value]
    if different:
        raise UserError(
            f"{out} is a world of other arguments ({'; '.join(different)}): name another folder or delete it"
        )
    return True


def workplace(out: Path) -> tuple[Path, int]:
    """A fresh, locked folder beside `out`, after clearing what killed runs left there; (folder, lock)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.partial-"
    for left in out.parent.glob(prefix + "*"):
        lock = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
        except BlockingIOError:  # another run is at work in it
            pass
        finally:
            os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder.chmod(0o755)
    return folder, lock


def make(out: Path, scenes: int, seed: int, qa_scenes: int) -> float | None:
    """Write the world, whole or not at all; returns the scenes drawn in a second, None where it was already there."""
    if reusable(out, {"version": VERSION, "scenes": scenes, "seed": seed, "qa_scenes": qa_scenes}):
        return None
    folder, lock = workplace(out)
    try:
        _, rate = write_world(folder, scenes, seed, qa_scenes)
        folder.rename(out)
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
    return rate


def main() -> None:
    args = parse()
    started = time.perf_counter()
    try:
        rate = make(args.out.resolve(), args.scenes, args.seed, args.qa_scenes)
    except OSError as error:  # disk full, no permission, or another run was quicker
        raise UserError(f"{args.out} could not be written: {error}") from error
    if rate is None:
        print(f"{args.out} already holds this world: reused")
    else:
        print(f"{args.out} made in {time.perf_counter() - started:.1f} s; {rate:.0f} scenes/s drawn and packed")


if __name__ == "__main__":
    run_command(main)
