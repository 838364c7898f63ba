"""The paper's table from runs on disk: what LeVLJEPA, CLIP and SigLIP encoders gain over the same ViT untrained.

Every RUN is a folder of bridge/train.py with bridge/evaluate.py's results in RUN/eval, or of scripts/quickstart.sh
(OUT/bridge/NAME with results in OUT/eval/NAME). A run on a pretrained encoder is
paired with the one on random weights (--encoder random:DIR) of the same LLM, data, settings and seed; runs over several
seeds become a mean. Runs that do not belong in the table are left out by name. OUT gets paper_table.md, .json and .png.
"""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/paper_table.py runs/*/ --out runs
  python scripts/paper_table.py runs/bridge/*/ --out runs/table           # what scripts/quickstart.sh made
  python scripts/paper_table.py runs/llama-* runs/qwen-* --paper --out runs/table    # the published gains beside ours
  python scripts/paper_table.py runs/seeds/*-[012] --eval eval-testdev --out runs/seeds
"""


@dataclass(frozen=True)
class TableSettings:
    runs: tuple[str, ...] = setting(help="folders of bridge/train.py", positional=True, metavar="RUN")
    out: str = setting(help="where paper_table.md, .json and .png go", metavar="DIR")
    eval: str = setting("eval", help="folder of the scores in each RUN", metavar="NAME")
    paper: bool = setting(False, help="the gains that the paper reports, beside")


def main() -> None:
    settings = parse(TableSettings, prog="scripts/paper_table.py", about=__doc__, examples=EXAMPLES)
    from study.paper.output import write_table  # after parsing: --help does not wait for it
    from study.paper.runs import read_runs
    from study.paper.table import make_table

    runs, left_out = read_runs([Path(folder) for folder in settings.runs], settings.eval)
    table = {**make_table(runs, settings.paper), "left_out": left_out}
    print(write_table(table, Path(settings.out)))


if __name__ == "__main__":
    run_command(main)
