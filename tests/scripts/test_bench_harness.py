"""The benches' harness: turns, medians, table text, verdicts, exit codes."""

import pytest
from bench import harness

MEBIBYTE = 1024 * 1024


class Clock:
    """A clock that only `work` moves."""

    def __init__(self):
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *durations: float):
        """A function that takes these times, one after the other, then the last of them again and again."""
        left = list(durations)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_ways_take_turns():
    clock = Clock()
    results = harness.take_turns({"a": clock.work("a", 1), "b": clock.work("b", 1)}, 2)
    assert clock.calls == ["a", "b", "a", "b"]
    assert results == {"a": [None, None], "b": [None, None]}


def test_a_comparison_has_medians_and_the_median_of_the_pairs_ratios():
    clock = Clock()
    # the first call of each warms up; the ratios of the three pairs are 3, 8 and 4
    reference, ours = clock.work("reference", 50, 6, 16, 40), clock.work("ours", 7, 2, 2, 10)
    found = harness.compare(reference, ours, 3, clock)
    assert clock.calls == ["reference", "ours"] * 4
    assert found == harness.Comparison(reference=16, ours=2, ratio=4, first_call=50)


def test_rows_and_verdicts_are_literal(capsys):
    goals = harness.Goals()
    harness.header("case", "ratio", "error")
    harness.row("small", goals.at_least(5.125, 5), goals.at_most(2.1e-7, 3e-6))
    harness.row("large", goals.at_least(3.499, 3.5), goals.at_most(4e-6, 3e-6))
    assert capsys.readouterr().out.splitlines() == [
        "| case | ratio | error |",
        "| --- | --- | --- |",
        "| small | 5.12x (needed 5x: PASS) | 2.1e-07 (allowed 3e-06: PASS) |",
        "| large | 3.50x (needed 3.5x: FAIL) | 4.0e-06 (allowed 3e-06: FAIL) |",
    ]
    assert (harness.verdict(True), harness.verdict(False)) == ("PASS", "FAIL")


def test_all_goals_reached_is_no_exit_and_one_missed_is_exit_code_1():
    goals = harness.Goals()
    goals.at_least(2, 2)
    goals.exit()
    goals.judge(False)
    goals.judge(True)  # a later PASS does not make up for it
    with pytest.raises(SystemExit) as exit:
        goals.exit()
    assert exit.value.code == 1


def test_a_slower_ours_fails():
    clock, goals = Clock(), harness.Goals()
    found = harness.compare(clock.work("reference", 1.0), clock.work("ours", 1.25), 3, clock)
    assert goals.at_least(found.ratio, 1) == "0.80x (needed 1x: FAIL)"
    assert goals.all_reached is False


def test_what_cannot_be_compared_fails():
    assert harness.Goals().at_least(float("nan"), 1) == "nanx (needed 1x: FAIL)"
    assert harness.Goals().at_most(float("nan"), 1) == "nan (allowed 1: FAIL)"


def peaks() -> tuple[harness.PeakMemory, harness.PeakMemory]:
    with harness.PeakMemory() as memory:
        block = bytearray(b"x") * (64 * MEBIBYTE)
        del block
    with harness.PeakMemory() as second:
        pass
    return memory, second


def test_peak_memory_is_the_growth_inside_the_block():
    memory, second = harness.alone(peaks)
    assert 60 < memory.growth < 90  # 64 MiB are 67 MB
    assert memory.before > 10
    assert second.growth < 5  # the first peak is forgotten


def double(number: int) -> int:
    return 2 * number


def test_alone_runs_in_another_process():
    import os

    assert harness.alone(os.getpid) != os.getpid()
    assert harness.alone(abs, -3) == 3


def test_the_loaders_bench_fails_with_exit_code_1(monkeypatch, capsys):
    """It printed FAIL and exited with 0 before the benches had one harness."""
    import bench_loader
    from bench import loader

    sizes = ["--image-size", "32", "--images", "2", "--rounds", "1", "--seconds", "0.01"]
    monkeypatch.setattr("sys.argv", ["bench_loader.py", *sizes])
    for name in ("report_threads", "report_loader", "report_crops"):
        monkeypatch.setattr(loader, name, lambda *_: None)
    monkeypatch.setattr(loader, "photograph", lambda seed, width=64, height=48: loader.Image.new("RGB", (64, 48)))
    monkeypatch.setattr(loader, "NEEDED", 1e9)
    with pytest.raises(SystemExit) as exit:
        bench_loader.main()
    assert exit.value.code == 1
    assert "(needed 1e+09x: FAIL)" in capsys.readouterr().out
    monkeypatch.setattr(loader, "NEEDED", 0)
    bench_loader.main()
    assert "(needed 0x: PASS)" in capsys.readouterr().out
