"""Nothing in product code can run what a file holds."""

import ast
from pathlib import Path

import pytest
from commands import ROOT

MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
CALLS = ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load",
         "pandas.read_pickle", "torch.hub.load", "np.load(allow_pickle)")  # fmt: skip
FLAGS = {"weights_only": False, "trust_remote_code": True, "allow_pickle": True, "shell": True}


def found(source: str) -> list[str]:
    """What in a Python source could run a stranger's code: "12: weights_only=False"."""
    tree, names = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            names += [(node.lineno, f"import {each}") for each in module if each.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                names.append((node.lineno, f"{called}()"))
            if called == "torch.load" and not any(word.arg == "weights_only" for word in node.keywords):
                names.append((node.lineno, "torch.load() without weights_only"))
            for word in node.keywords:
                if word.arg in FLAGS and not (
                    isinstance(word.value, ast.Constant) and word.value.value is not FLAGS[word.arg]
                ):
                    names.append((node.lineno, f"{word.arg}={ast.unparse(word.value)}"))
    return [f"{line}: {name}" for line, name in names]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pickle", ["1: import pickle"]),
        ("from marshal import loads", ["1: import marshal"]),
        ("torch.load(f)", ["1: torch.load() without weights_only"]),
        ("torch.load(f, weights_only=False)", ["1: weights_only=False"]),
        ("torch.load(f, weights_only=chosen)", ["1: weights_only=chosen"]),
        ("torch.load(f, weights_only=True)", []),
        ("a.from_pretrained(x, trust_remote_code=True)", ["1: trust_remote_code=True"]),
        ("yaml.load(f)", ["1: yaml.load()"]),
        ("eval('1')", ["1: eval()"]),
        ("model.eval()", []),
        ("subprocess.run(x, shell=True)", ["1: shell=True"]),
    ],
)
def test_what_is_looked_for(source, said):
    assert found(source) == said


def test_product_code_runs_no_strangers_code():
    files = [file for package in ("vlm", "pretrain", "bridge") for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    assert {
        str(Path(file).relative_to(ROOT)): found(file.read_text()) for file in files if found(file.read_text())
    } == {}
