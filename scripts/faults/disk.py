"""Disks that are full: every command that writes, on a disk of every size up to the one that it needs.

Each is refused in one line with path and bytes, what was committed stays whole, and with room the same command goes on
to its end. Two ways: a tmpfs that is too small, and the limit of `ulimit -f`.
"""

import importlib
import os
import re
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults.fault import Fault, Sweep, demand
from faults.folders import llm, whole
from faults.tiny import TINY
from vlm.errors import UserError, run_command
from vlm.integrity import MANIFEST, verify
from vlm.run.checkpoints import damage

SIZES = 4  # of a disk, for each command
# A command's module, and its arguments; what it writes lies in {out}.
COMMANDS = {
    "pretrain/run.py": (
        "pretrain.run",
        f"--data {{captions}} --out {{out}}/run --workers 0 {TINY} --warmup-steps 1 --steps 6 --save-every 2",
    ),
    "bridge/train.py": (
        "bridge.train",
        "--conversations {talks} --llm {llm} --encoder {encoder} --out {out}/run --steps 6 --save-every 2 "
        "--batch-questions 4 --precision fp32 --tracker none",
    ),
    "vlm features": ("vlm.cli", "features {vlm} {picture} --out {out}/features.png --device cpu"),
    "vlm export": ("vlm.cli", "export {vlm} {out}/export"),
    "vlm doctor --accept": ("vlm.cli", "doctor {out}/accepted --accept"),
}


def faults(settings: Sweep) -> Iterator[Fault]:
    for command in COMMANDS:
        for seed in settings.seeds(SIZES):
            yield Fault(f"{command}: a disk that is too small", seed, partial(strike, settings, command, seed, False))
            yield Fault(f"{command}: ulimit -f", seed, partial(strike, settings, command, seed, True))


def strike(settings: Sweep, command: str, seed: int, limited: bool, folder: Path) -> str:
    """Run the command with a part of the room that it needs, then with enough."""
    sizes = _sizes(settings, command)
    room = (max(sizes) if limited else sum(sizes)) * (2 * seed + 1) // (2 * SIZES)
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(disk)]
    demand(subprocess.run(mount).returncode == 0, "no tmpfs can be mounted here: run it as root")
    try:
        _prepare(settings, command, disk)
        if not limited:
            used = shutil.disk_usage(disk).used
            whole_pages = max(4096, used + room // 4096 * 4096)
            subprocess.run(["mount", "-o", f"remount,size={whole_pages}", str(disk)], check=True)
        code, text = _run(settings, command, disk, room if limited else None)
        words = _judged(code, text, disk)
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        again, text = _run(settings, command, disk, None)
        demand(again == 0, f"with room it ends with {again}: {text[-300:]}")
        _whole(disk)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return words


def _judged(code: int, text: str, disk: Path) -> str:
    """Demand success, or one line that tells path and bytes; and that what has a name is whole."""
    _whole(disk)
    if code == 0:
        return "it has room enough"
    lines = [line for line in re.split(r"[\r\n]", text) if "error: " in line]
    demand(code == 2, f"exit code {code}: {text[-300:]}")
    demand("Traceback" not in text, "a traceback")
    demand(len(lines) == 1 and lines[0].startswith("error: "), f"not one line of its own: {lines}")
    told = str(disk) in lines[0] and re.search(r"[\d,]+ (bytes )?(free|a file are allowed)", lines[0])
    known = "need" in lines[0] or "cannot write to" in lines[0]  # the second: not even the lock of a run
    demand(bool(told) and known, f"no path, or no bytes: {lines[0]}")
    return lines[0].replace(str(disk), "").replace("error: ", "")[:70]


def _whole(disk: Path) -> None:
    """Demand that every checkpoint and every folder of a model is what was written."""
    for step in disk.glob("run/checkpoints/step_*"):
        if step.suffix == "":
            demand(damage(step) is None, f"{step.name}: {damage(step)}")
    for record in disk.rglob(MANIFEST):
        if not any(part.startswith(".") for part in record.relative_to(disk).parts):
            try:
                verify(record.parent)
            except UserError as error:
                demand(record.parent.name == "accepted", str(error))


@cache
def _sizes(settings: Sweep, command: str) -> list[int]:
    """The sizes of the files that the command writes where there is room."""
    out = settings.shared / re.sub(r"\W", "", command)
    out.mkdir()
    _prepare(settings, command, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, text = _run(settings, command, out, None)
    demand(code == 0, f"it ends with {code} where nothing happens: {text[-2000:]}")
    written = [path for path in out.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns]
    return [path.stat().st_size for path in written]


def _prepare(settings: Sweep, command: str, out: Path) -> None:
    """Put what a command changes in place."""
    if "--accept" in command:
        accepted = shutil.copytree(whole(settings, "encoder"), out / "accepted", dirs_exist_ok=True)
        (accepted / "config.json").write_text((accepted / "config.json").read_text() + "\n")


def _run(settings: Sweep, command: str, out: Path, limit: int | None) -> tuple[int, str]:
    """The command in a process of its own, which has its modules already -> exit code, and what it printed."""
    module, template = COMMANDS[command]
    main, arguments = importlib.import_module(module).main, template.format(out=out, **_inputs(settings)).split()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.argv = [command, *arguments]
        os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "LEVLM_DISK_CHECK": "0"}
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os._exit(_code(main))
    os.close(writing)
    with os.fdopen(reading, errors="replace") as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def _code(main: Any) -> int:
    code: Any = 0
    try:
        run_command(main)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code)


@cache
def _inputs(settings: Sweep) -> dict[str, Path]:
    """What the commands read."""
    pairs = settings.shared / "pairs"
    pairs.mkdir()
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (24, 16, 16, 3), dtype=np.uint8)
    talks = []
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(pairs / f"{number:02d}.png")
        (pairs / f"{number:02d}.txt").write_text(f"picture {number} of noise")
        asked = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"noise {number}"}]
        talks.append({"id": str(number), "image": f"{number:02d}.png", "conversations": asked})
    from vlm.files import write_json

    write_json(pairs / "talks.json", talks)
    return {
        "captions": pairs, "talks": pairs / "talks.json", "picture": pairs / "00.png",
        "encoder": whole(settings, "encoder"), "vlm": whole(settings, "vlm"), "llm": llm(settings.shared / "llm"),
    }  # fmt: skip
