"""What the bridge is compared with is named as it is, and the ratios of operations are those written down."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench_bridge.py"


@pytest.mark.parametrize(("name", "one_question", "merged"), [("gqa", 7.044, 1.178), ("vqav2", 4.202, 1.171)])
def test_operations_against_both_ways_of_llava(name, one_question, merged):
    from bench import bridge_flops
    from bench.settings import BRIDGE_CASES

    case = BRIDGE_CASES[name]
    ours = sum(bridge_flops.bridge_flops(case, 28).values())
    assert sum(bridge_flops.reference_flops(case, 28).values()) / ours == pytest.approx(one_question, abs=1e-3)
    assert sum(bridge_flops.merged_flops(case, 28).values()) / ours == pytest.approx(merged, abs=1e-3)


def test_help_names_the_reference_and_what_llava_does():
    text = subprocess.run([sys.executable, BENCH, "--help"], capture_output=True, text=True).stdout
    assert "The reference is the stock LLaVA with labels, one question a sequence" in text
    assert "LLaVA-1.5's own training merges all questions of an image into one conversation." in text
    assert "It is timed as a second reference" in " ".join(text.split())
    assert "the bridge's questions are isolated, and its labels exact" in " ".join(text.split())
