"""The bench of evaluation says what is needed, and fails if it is not reached."""

import sys

import pytest

from vlm.errors import UserError

ONE, SIXTEEN = "generate, batch  1", "generate, batch 16"


def test_verdicts():
    from bench import evaluate

    assert set(evaluate.NEEDED) == {ONE, SIXTEEN}
    line, passed = evaluate.judge(ONE, 6.0, 0, exact=True)
    assert (line, passed) == ("ours x 6.00 (needed 6: PASS), 0 answers differ (needed 0: PASS)", True)
    assert evaluate.judge(ONE, 5.99, 0, exact=True)[1] is False
    assert evaluate.judge(SIXTEEN, 3.0, 1, exact=True)[1] is False
    assert evaluate.judge(SIXTEEN, 3.0, 1, exact=False)[1] is True  # ties in bf16
    assert evaluate.judge(SIXTEEN, 2.99, 0, exact=False)[1] is False


def test_a_device_that_is_none_is_said():
    from bench import evaluate
    from bench.settings import EvaluateBench

    with pytest.raises(UserError, match="--device gpu: this is no device; give cpu, cuda or mps"):
        evaluate.run(EvaluateBench(device="gpu"))


def test_the_exit_code_is_the_verdict(monkeypatch, capsys, tiny_vlm):
    import bench_evaluate
    from bench import evaluate

    sizes = ["--images", "1", "--questions", "2", "--rounds", "1", "--precision", "fp32", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_evaluate.py", str(tiny_vlm), *sizes])
    monkeypatch.setattr(evaluate, "NEEDED", {ONE: 0, SIXTEEN: 0})
    bench_evaluate.main()
    assert capsys.readouterr().out.count("PASS), 0 answers differ (needed 0: PASS)") == 2
    monkeypatch.setattr(evaluate, "NEEDED", {ONE: 0, SIXTEEN: 1e9})
    with pytest.raises(SystemExit) as exit:
        bench_evaluate.main()
    assert exit.value.code == 1
    assert "needed 1000000000.0: FAIL" in capsys.readouterr().out
