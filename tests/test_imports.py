"""The import rules: `vlm` knows neither stage, the stages do not know each other, DeepSpeed lives in two files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "vlm": {"pretrain", "bridge", "scripts", "tests", "deepspeed"},
    "pretrain": {"bridge", "scripts", "tests"},
    "bridge": {"pretrain", "scripts", "tests", "deepspeed"},
}
DEEPSPEED = {"pretrain/zero.py", "pretrain/train.py"}
FILES = sorted(str(path.relative_to(ROOT)) for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_its_package_may(file):
    forbidden = set(FORBIDDEN[file.split("/")[0]])
    if file.startswith("pretrain/") and file not in DEEPSPEED:
        forbidden.add("deepspeed")
    assert not imported(ROOT / file) & forbidden


@pytest.mark.parametrize("file", FILES)
def test_nothing_that_runs_foreign_code_or_pickles(file):
    source = (ROOT / file).read_text()
    for risk in ("trust_remote_code=True", "weights_only=False", "pickle.load", "type=bool", "os.system"):
        assert risk not in source, f"{file} contains {risk}"


def test_no_module_hides_a_dependency():
    """`python bridge/train.py` puts bridge/ first on sys.path: a file there named like a library would replace it."""
    import importlib.metadata
    import sys

    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    taken -= {"vlm", "pretrain", "bridge"}
    names = {Path(file).stem for file in FILES if file.startswith(("bridge/", "pretrain/"))} - {"__init__"}
    assert not names & taken, f"{sorted(names & taken)} name a standard or installed module"
