"""The import rules: `vlm` knows neither stage, the stages do not know each other, DeepSpeed lives in one file."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Top-level names that no file of a package may import, in functions either.
FORBIDDEN = {
    "vlm": {"pretrain", "bridge", "scripts", "tests"},
    "pretrain": {"bridge", "scripts", "tests"},
    "bridge": {"pretrain", "scripts", "tests"},
}
DEEPSPEED = "pretrain/zero.py"
FILES = sorted(str(path.relative_to(ROOT)) for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))
SOURCES = {file: (ROOT / file).read_text() for file in FILES}


def imported_modules(source: str) -> set[str]:
    """Dotted names of every import in a file, inside functions too.

    `from vlm.run import trackers` gives vlm.run and vlm.run.trackers: the second may be a module or a name in the
    first. An import for type checkers alone, under `if TYPE_CHECKING:`, counts as well: it is a dependency too.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full name"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(file: str) -> str:
    """vlm/run/trackers.py -> vlm.run.trackers, vlm/__init__.py -> vlm"""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Each module -> the modules among `sources` that it imports."""
    modules = {module_of(file) for file in sources}
    return {module_of(file): imported_modules(source) & modules for file, source in sources.items()}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; [] if there are none."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for other in sorted(graph[module]):
            if cycle := visit(other, [*path, module]):
                return cycle
        finished.add(module)
        return []

    for module in sorted(graph):
        if cycle := visit(module, []):
            return cycle
    return []


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_its_package_may(file):
    names = {name.split(".")[0] for name in imported_modules(SOURCES[file])}
    assert not names & FORBIDDEN[file.split("/")[0]]
    if file != DEEPSPEED:
        assert "deepspeed" not in names


def test_no_module_imports_itself_in_a_circle():
    graph = import_graph(SOURCES)
    assert len(graph) == len(FILES) and "vlm.errors" in graph["vlm.files"]
    cycle = find_cycle(graph)
    assert not cycle, " -> ".join(cycle)


def test_a_cycle_is_found_in_functions_and_over_several_modules():
    sources = {
        "vlm/__init__.py": "",
        "vlm/a.py": "import json\nfrom vlm import b",
        "vlm/b.py": "def late():\n    from vlm.c.d import name",
        "vlm/c/d.py": "import vlm.a",
        "vlm/e.py": "import vlm.a, vlm.b",
    }
    assert find_cycle(import_graph(sources)) == ["vlm.a", "vlm.b", "vlm.c.d", "vlm.a"]
    assert find_cycle(import_graph({**sources, "vlm/c/d.py": "from vlm import e_is_no_module"})) == []


@pytest.mark.parametrize("file", FILES)
def test_nothing_that_runs_foreign_code_or_pickles(file):
    for risk in (
        "trust_remote_code=True", "weights_only=False", "pickle.load", "torch.load(", "torch.save(",
        "load_checkpoint(", "zero_to_fp32", "type=bool", "os.system",
    ):  # fmt: skip
        assert risk not in SOURCES[file], f"{file} contains {risk}"


@pytest.mark.parametrize("package", ["pretrain", "bridge"])
def test_no_module_hides_a_dependency(package):
    """`python bridge/train.py` puts bridge/ first on sys.path.

    A file or folder there that is named like a library would be imported in its place. Deeper ones are out of reach.
    """
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    taken -= {"vlm", "pretrain", "bridge"}
    children = {
        path.stem
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    }
    assert "config" in children
    assert not children & taken, f"{sorted(children & taken)} name a standard or installed module"
