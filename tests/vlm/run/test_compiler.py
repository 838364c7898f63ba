"""What torch.compile needs of a machine is missed before the first step."""

import re
import shutil

import pytest
import torch

from vlm.errors import UserError
from vlm.run import compiler

builds = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="needs gcc and g++")


@pytest.fixture
def lacking(monkeypatch):
    """The function without what it remembers, on a machine that has Triton."""
    monkeypatch.setattr(compiler, "find_spec", lambda name: True)
    monkeypatch.setattr(compiler, "lacking", compiler.lacking.__wrapped__)
    monkeypatch.delenv("CC", raising=False)
    return lambda kind: compiler.lacking(kind)


@builds
def test_nothing_lacks_on_a_machine_that_builds(lacking):
    assert [lacking(kind) for kind in ("cuda", "cpu", "mps")] == [None, None, None]


def test_a_missing_compiler_is_named(lacking, monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "needs a C compiler, and 'gcc' does not run: install gcc and python3." in lacking("cuda")
    assert "needs a C++ compiler, and 'g++' does not run: install g++ and" in lacking("cpu")
    monkeypatch.setenv("CC", "/opt/cc")
    assert "'/opt/cc' does not run" in lacking("cuda")


@builds
def test_missing_headers_and_triton_are_named(lacking, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "_headers", lambda: str(tmp_path))
    assert re.search(f"needs Python.h, which '.*' cannot read in {tmp_path}: install gcc and python3", lacking("cuda"))
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    assert lacking("cuda") == "torch.compile needs Triton: pip install triton"


def test_compile_is_refused_in_one_line(lacking, monkeypatch):
    monkeypatch.setattr(compiler, "lacking", lambda kind: "no compiler: install one" if kind == "cuda" else None)
    compiler.check_compiler(torch.device("cpu"))
    with pytest.raises(UserError, match="--compile: no compiler: install one, or leave it out"):
        compiler.check_compiler(torch.device("cuda"))
