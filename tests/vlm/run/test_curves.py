"""Curves of a long run stay small, and lose no peak."""

from vlm.run.curves import curves
from vlm.run.page import svg


def test_a_long_run_keeps_its_peaks_and_a_small_page():
    records = [{"step": step, "loss": 1.0 + step % 2} for step in range(100_000)]
    records[77_777]["loss"] = 9.0
    records[5]["loss"] = float("nan")
    figure = curves(records, {"loss": ("loss",), "none": ("other",)})
    faint, mean = figure.axes[0].lines
    assert len(faint.get_xdata()) <= 1002 and len(mean.get_xdata()) <= 1002
    assert max(faint.get_ydata()) == 9.0
    assert (faint.get_xdata()[0], faint.get_xdata()[-1]) == (0, 99_999)
    text = svg(figure, "curves <of> a run")
    assert len(text) < 100_000
    assert "http" not in text and 'aria-label="curves &lt;of&gt; a run"' in text and "var(--c1f6f8b)" in text
