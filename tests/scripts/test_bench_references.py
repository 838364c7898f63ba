"""What the bridge is compared with is named as it is, and the ratios of operations are those written down."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench_bridge.py"


@pytest.mark.parametrize(
    ("name", "device", "one_question", "merged"),
    [
        ("gqa", "cpu", 7.044, 1.178),
        ("vqav2", "cpu", 4.493, 1.252),  # its three rows are micro-batches of their own, without padding
        ("vqav2", "cuda", 4.202, 1.171),
    ],
)
def test_operations_against_both_ways_of_llava(name, device, one_question, merged):
    from bench import bridge_flops
    from bench.bridge_ways import model_config
    from bench.settings import BRIDGE_CASES

    questions, config = BRIDGE_CASES[name].questions, model_config(28)
    ours = sum(bridge_flops.bridge_flops(questions, config, device).values())
    assert sum(bridge_flops.reference_flops(questions, config).values()) / ours == pytest.approx(one_question, abs=1e-3)
    assert sum(bridge_flops.merged_flops(questions, config).values()) / ours == pytest.approx(merged, abs=1e-3)


def test_help_names_the_reference_and_what_llava_does():
    text = subprocess.run([sys.executable, BENCH, "--help"], capture_output=True, text=True).stdout
    assert "The reference is the stock LLaVA with labels, one question a sequence" in text
    assert "LLaVA-1.5's own training merges all questions of an image into one conversation." in text
    assert "It is timed as a second reference" in " ".join(text.split())
    assert "the bridge's questions are isolated, and its labels exact" in " ".join(text.split())
