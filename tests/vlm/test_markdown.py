"""Tables in Markdown."""

from vlm.markdown import gain_text, ruled


def test_numbers_are_flush_right_and_no_cell_ends_its_table():
    assert ruled([["", "GQA"], ["a|b\nc", 41.5]]) == ["|  | GQA |", "| --- | ---: |", "| a\\|b c | 41.5 |"]
    assert ruled([["LLM", "benchmark", "gain"]], words=2) == ["| LLM | benchmark | gain |", "| --- | --- | ---: |"]


def test_a_gain_has_its_interval_if_it_is_known():
    assert gain_text(None) == "-"
    assert gain_text({"gain": 2.5}) == "+2.50"
    assert gain_text({"gain": -2.5, "low": -4.04, "high": 0.51}) == "-2.50 [-4.0, +0.5]"
