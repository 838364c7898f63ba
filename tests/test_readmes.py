"""The README of each package lists its files: every one that there is, and no other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["pretrain", "bridge", "vlm"])
def test_every_module_is_listed(package):
    text = (ROOT / package / "README.md").read_text()
    tree = text.split("\n## Files\n")[1].split("```")[1]
    listed = set(re.findall(r"(\w+\.py)\b", tree))
    modules = {path.name for path in (ROOT / package).rglob("*.py")} - {"__init__.py"}
    assert listed - {"__init__.py"} == modules
