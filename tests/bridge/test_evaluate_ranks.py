"""Two processes that evaluate together leave the files of one, also after a kill; an error of one ends both."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from bridge.evaluation.team import share
from vlm.files import read_json, read_jsonl

ALL = ("gqa", "vqav2", "pope")
FLAGS = ("--device", "cpu", "--precision", "fp32", "--max-new-tokens", "5", "--batch-questions", "2")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def arguments(folder: Path, world: Path, out: Path, *more) -> list:
    data = [part for name in ALL for part in (f"--{name}", world / name)]
    return [folder, *data, "--out", out, *FLAGS, *more]


def together(*arguments) -> list[tuple[int, str, str]]:
    """Run bridge/evaluate.py in two processes, without a launcher -> exit code, stdout and stderr of each."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": commands.free_port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "bridge/evaluate.py", *map(str, arguments)]
    options = {"cwd": commands.ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env={**os.environ, **where, "RANK": str(n)}, **options) for n in (0, 1)]
    printed = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, printed)]


def contents(out: Path) -> dict[str, str]:
    """Every file that an evaluation leaves, but for how long it took."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    timing = re.compile(r'"(answered_now|seconds|questions_per_s)": [\d.null]+')
    return {name: timing.sub("", path.read_text()) for name, path in sorted(files.items())}


@pytest.fixture(scope="module")
def one(benchmark_files, tiny_vlm, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one") / "eval"
    commands.output("bridge/evaluate.py", *arguments(tiny_vlm, benchmark_files, out))
    return out


def test_two_processes_under_torchrun_are_one(one, benchmark_files, tiny_vlm, tmp_path):
    out = tmp_path / "eval"
    printed = commands.output("bridge/evaluate.py", *arguments(tiny_vlm, benchmark_files, out), launcher=TORCHRUN)
    assert contents(out) == contents(one)
    assert printed.count("written: ") == 1 and printed.count("POPE random:") == 1
    report = read_json(out / "results.json")["benchmarks"]
    assert [entry["answered_now"] for entry in report.values()] == [5, 3, 12]
    lines = [record["question_id"] for record in read_jsonl(out / "predictions/pope.jsonl")]
    assert lines[:5] == ["random/3", "random/4", "random/5", "random/6", "popular/3"]  # as asked


def test_a_killed_evaluation_goes_on_with_any_number_of_processes(one, benchmark_files, tiny_vlm, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(one / "predictions", killed / "predictions")
    lines = (one / "predictions/pope.jsonl").read_bytes().splitlines(keepends=True)
    parts = {"pope": lines[:2], "pope.rank0": lines[1:4], "pope.rank2": [lines[7], lines[8][:20]]}  # of three processes
    for name, part in parts.items():
        (killed / f"predictions/{name}.jsonl").write_bytes(b"".join(part))
        shutil.copy(one / "predictions/pope.origin.json", killed / f"predictions/{name}.origin.json")
    shutil.copytree(killed, tmp_path / "two")
    commands.output("bridge/evaluate.py", *arguments(tiny_vlm, benchmark_files, killed))
    done = together(*arguments(tiny_vlm, benchmark_files, tmp_path / "two"))
    assert [code for code, _, _ in done] == [0, 0] and done[1][1] == ""
    for out in (killed, tmp_path / "two"):
        assert contents(out) == contents(one)
        assert read_json(out / "results.json")["benchmarks"]["pope"]["answered_now"] == 7


def test_parts_of_another_setting_are_refused_on_one_line(one, benchmark_files, tiny_vlm, tmp_path):
    out = tmp_path / "eval"
    (out / "predictions").mkdir(parents=True)
    shutil.copy(one / "predictions/gqa.jsonl", out / "predictions/gqa.rank1.jsonl")
    shutil.copy(one / "predictions/gqa.origin.json", out / "predictions/gqa.rank1.origin.json")
    given = arguments(tiny_vlm, benchmark_files, out, "--max-new-tokens", "6")
    (first, _, told), (second, _, silent) = together(*given)
    assert (first, second, silent) == (2, 2, "")
    assert told == (
        f"error: {out}/predictions/gqa.rank1.jsonl holds answers of another run (it differs in: max_new_tokens); "
        "choose another --out, or give --overwrite to discard them\n"
    )
    assert commands.start("bridge/evaluate.py", *given, "--overwrite").returncode == 0
    assert not list(out.glob("predictions/*rank*"))


def test_an_error_of_one_process_ends_both(benchmark_files, tiny_vlm, tmp_path):
    blocked = tmp_path / "eval/predictions/gqa.rank1.origin.json"  # of the second process alone
    blocked.mkdir(parents=True)
    (first, _, told), (second, _, silent) = together(*arguments(tiny_vlm, benchmark_files, tmp_path / "eval"))
    assert (first, second) == (2, 2) and "error" not in silent
    assert [line.split(" (")[0] for line in told.splitlines() if "error" in line] == [f"error: cannot write {blocked}"]


def test_mistakes_and_help_are_told_once(benchmark_files, tmp_path):
    (first, _, told), (second, _, silent) = together(*arguments(tmp_path, benchmark_files, tmp_path / "out"))
    assert (first, second, silent) == (2, 2, "") and told.startswith("error: ") and told.count("\n") == 1
    (first, shown, _), (second, silent, _) = together("--help")
    assert (first, second, silent) == (0, 0, "") and "examples:" in shown
    (first, _, told), (second, _, silent) = together("--nonsense")
    assert (first, second, silent) == (2, 2, "") and "error: " in told


def test_whole_batches_are_shared_evenly():
    assert share([4, 3, 1, 4], 0, 2) == [0, 3] and share([4, 3, 1, 4], 1, 2) == [1, 2]
    assert share([], 0, 2) == [] and share([7], 1, 2) == [] and share([1, 1, 1], 0, 1) == [0, 1, 2]
