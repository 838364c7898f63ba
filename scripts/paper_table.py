"""The paper's table from runs on disk: what LeVLJEPA, CLIP and SigLIP encoders gain over the same ViT untrained.

Every RUN is a folder of bridge/train.py with bridge/evaluate.py's results in RUN/eval, or of scripts/quickstart.sh
(OUT/bridge/NAME with results in OUT/eval/NAME). A run on a pretrained encoder is
paired with the one on random weights (--encoder random:DIR) of the same LLM, data, settings and seed; runs over several
seeds become a mean. Runs that do not belong in the table are left out by name. OUT gets paper_table.md, .json and .png.
"""

import argparse
from pathlib import Path

from paper.output import as_markdown, draw
from paper.runs import Run, read_run
from paper.table import make_table

from vlm.errors import UserError, run_command
from vlm.files import write_json

EXAMPLES = """examples:
  python scripts/paper_table.py runs/*/ --out runs
  python scripts/paper_table.py runs/bridge/*/ --out runs/table           what scripts/quickstart.sh made
  python scripts/paper_table.py runs/llama-* runs/qwen-* --paper --out runs/table      the published gains beside ours
  python scripts/paper_table.py runs/seeds/*-[012] --eval eval-testdev --out runs/seeds"""


def main() -> None:
    args = parse()
    runs, left_out = [], []
    for folder in dict.fromkeys(args.runs):
        if not (folder / "config.json").is_file():
            left_out.append(f"{folder}: is no bridge run, it has no config.json")
            continue
        run = read_run(folder, args.eval)
        if isinstance(run, Run):
            runs.append(run)
        else:
            left_out.append(f"{folder}: {run}")
    if not runs:
        raise UserError(f"none of the {len(args.runs)} folders has a place in the table ({'; '.join(left_out[:3])})")
    table = {**make_table(runs, args.paper), "left_out": left_out}
    text = as_markdown(table)
    write_json(args.out / "paper_table.json", table)
    (args.out / "paper_table.md").write_text(text, encoding="utf-8")
    draw(table, args.out / "paper_table.png")
    print(text + "".join(f"Left out: {line}\n" for line in left_out))
    print(f"written: {args.out / 'paper_table.md'}, .json and .png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python scripts/paper_table.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders of bridge/train.py")
    add("--out", type=Path, required=True, metavar="DIR", help="where paper_table.md, .json and .png go")
    add("--eval", default="eval", metavar="NAME", help="folder of the scores in each RUN [%(default)s]")
    add("--paper", action="store_true", help="the gains that the paper reports, beside")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
