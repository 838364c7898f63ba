"""The command `python pretrain/report.py RUN`: draw a run on one page, RUN/report.html."""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python pretrain/report.py runs/pretrain
  python pretrain/report.py runs/cc12m --data '/data/coco/val-*.tar'

Curves are there from the first step on; spectrum and patch tokens once the run has written RUN/encoder.
"""


@dataclass(frozen=True)
class ReportConfig:
    """A run to draw."""

    run: str = setting(help="the folder that pretrain/run.py wrote", positional=True)
    data: str | None = setting(
        None, help="captions to embed", default_text="held-out shards beside the run's, else its own"
    )


def main() -> None:
    config = parse(
        ReportConfig,
        prog="pretrain/report.py",
        about="Draw a pretraining run: curves, spectrum of the embeddings, patch tokens.",
        examples=EXAMPLES,
    )
    from pretrain.page import write_report  # after parsing: --help must not wait for torch and matplotlib

    print(f"report written to {write_report(Path(config.run), config.data)}")


if __name__ == "__main__":
    run_command(main)
