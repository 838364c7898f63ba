"""The README of each package lists its files: every one that there is, in its folder, and no other."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def listed(tree: str) -> list[str]:
    """The .py files that a README's tree names, as paths below its package, in order.

    A row is one or more names, two or more spaces, and words. Its first name may have a folder, which holds for the
    others; after the folder alone (`apps/doctor/  vlm doctor: command.py`) the files stand among the words, there and
    in the rows below that begin with spaces.
    """
    found: list[str] = []
    folder = ""
    for row in filter(str.strip, tree.splitlines()):
        if not row.startswith(" "):
            first = row.split()[0]
            folder = first[: first.rfind("/") + 1]
            names, *words = re.split(r"\s{2,}", row, maxsplit=1)
            if not first.endswith("/"):
                words = [names.removeprefix(folder)]
        else:
            words = [row]
        found += [folder + name for name in re.findall(r"[\w/]+\.py\b", " ".join(words))]
    return found


@pytest.mark.parametrize("package", ["pretrain", "bridge", "vlm"])
def test_every_module_is_listed(package):
    text = (ROOT / package / "README.md").read_text()
    tree = text.split("\n## Files\n")[1].split("```")[1]
    named = Counter(name for name in listed(tree) if not name.endswith("__init__.py"))
    paths = [path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")]
    assert named == Counter(str(path) for path in paths if path.name != "__init__.py")


def test_names_of_a_row_are_in_its_folder():
    tree = """
run.py                the command     (deepspeed pretrain/run.py)
data/source.py        as data/x does
scoring/a.py b.py c/  pure functions of d.py
apps/doctor/          vlm doctor: command.py, models.py,
                      findings.py (OK)
apps/export/          vlm export: ours.py (timm, hf); theirs.py
files.py              hashes
"""
    assert listed(tree) == [
        *("run.py", "data/source.py", "scoring/a.py", "scoring/b.py", "apps/doctor/command.py"),
        *("apps/doctor/models.py", "apps/doctor/findings.py", "apps/export/ours.py", "apps/export/theirs.py"),
        "files.py",
    ]
