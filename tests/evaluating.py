"""Runs bridge/evaluate.py on the benchmarks below a folder, as a user or in this process."""

import sys
from pathlib import Path

import commands

from bridge import evaluate
from vlm.files import read_json

ALL = ("gqa", "vqav2", "pope")
EXACT = ("--device", "cpu", "--precision", "fp32")  # bf16 logits tie often, and batching may then choose another token


def run(folder: Path, world: Path, out: Path, *more: str, benchmarks=ALL, expect: int = 0) -> str:
    """Run bridge/evaluate.py as a user starts it. Returns its output, stdout before stderr."""
    data = [part for name in benchmarks for part in (f"--{name}", str(world / name))]
    given = [folder, *data, "--out", out, *EXACT, *more]
    return commands.output("bridge/evaluate.py", *given, expect=expect, timeout=240)


def here(monkeypatch, folder: Path, world: Path, out: Path, *more: str, benchmarks=ALL) -> dict:
    """Run it in this process, which has the libraries loaded already. Returns its results.json."""
    data = [part for name in benchmarks for part in (f"--{name}", str(world / name))]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(folder), *data, "--out", str(out), *EXACT, *more])
    evaluate.main()
    return read_json(out / "results.json")


def predictions(out: Path) -> dict[str, bytes]:
    return {name: (out / f"predictions/{name}.jsonl").read_bytes() for name in ALL}


def untimed(report: dict) -> dict:
    timing = ("answered_now", "seconds", "questions_per_s")
    entries = {
        name: {k: v for k, v in entry.items() if k not in timing} for name, entry in report["benchmarks"].items()
    }
    return {**report, "benchmarks": entries}
