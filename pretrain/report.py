"""The command `python pretrain/report.py RUN`: draw a run on one HTML page that needs no other file."""

import sys
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError, run_command
from vlm.files import read_json, read_jsonl, write_file
from vlm.run.page import drawn, note, page, settings_table, table
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python pretrain/report.py runs/pretrain
  python pretrain/report.py runs/cc12m --data '/data/coco/val-*.tar'

Curves are there from the first step on; spectrum and patch tokens once the run has written RUN/encoder.
"""

OF_A_RUN = {"objective", "data", "preset", "seed", "steps", "batch_size"}  # of config.json, what the page tells


@dataclass(frozen=True)
class ReportConfig:
    """A run to draw."""

    run: str = setting(help="the folder that pretrain/run.py wrote", positional=True)
    data: str | None = setting(
        None, help="captions to embed", default_text="held-out shards beside the run's, else its own"
    )


def held_out_source(source: str) -> str:
    """A shard beside train-* shards that is none of them, of val-* if there is one: the test split is for the report of
    a result. `source` itself if there is no such file.
    """
    files = sorted(path for path in Path(source).glob("*") if path.suffix in (".tar", ".parquet", ".arrow"))
    others = [path for path in files if not path.name.startswith("train-")]
    validation = [path for path in others if path.name.startswith("val-")]
    return str((validation or others)[0]) if 0 < len(others) < len(files) else source


def facts(config: dict, records: list[dict], quarantined: int) -> dict[str, str]:
    """The table at the head of the page."""
    losses = [record["loss"] for record in records if record.get("loss") is not None]
    return {
        "objective": f"{config['objective']}, preset {config['preset']}, seed {config['seed']}",
        "steps": f"{len(records):,} of {config['steps']:,}, {config['batch_size']:,} pairs each",
        "last loss": f"{losses[-1]:.4f}" if losses else "none finite",
        "steps skipped": str(sum(record.get("skipped", 0) for record in records)),
        "samples that could not be used": f"{quarantined:,}",
        "data": config["data"],
    }


def write_report(run: Path, data: str | None) -> Path:
    """Write RUN/report.html. data: captions to embed, found by itself if None.

    Where those of the run are gone, the page has its curves, and a note in place of the encoder's pictures.
    Raises: UserError if the run has no step yet, or `data` cannot be read.
    """
    from pretrain import figures  # imports torch and matplotlib

    config, metrics, bad = read_json(run / "config.json"), run / "metrics.jsonl", run / "quarantine.jsonl"
    records = list(read_jsonl(metrics)) if metrics.exists() else []
    if not records or not isinstance(config, dict) or not config.keys() >= OF_A_RUN:
        raise UserError(f"{run} holds no pretraining run with a first step: give the --out of pretrain/run.py")
    rows = facts(config, records, sum(1 for _ in read_jsonl(bad)) if bad.exists() else 0)
    parts = {"Curves": drawn("What is noisy is faint under its running mean.", figures.curves(records))}
    if (run / "encoder").is_dir():
        source = data or held_out_source(config["data"])
        columns = map(config.get, ("image_column", "caption_column", "image_root"))
        try:
            found = figures.of_encoder(run / "encoder", source, *columns)
        except UserError as error:
            if data:
                raise
            told = f"spectrum and patch tokens are not drawn: {error}"
            print(told, file=sys.stderr)
            parts["Encoder"] = note(told[0].upper() + told[1:])
        else:
            parts["Encoder"] = "\n".join(drawn(words, figure) for words, figure in found.items())
            rows["embedded"] = source + ("" if data or source != config["data"] else " (the training data)")
    head = table(list(rows.items())) + settings_table(config)
    report = run / "report.html"
    write_file(report, page(f"Pretraining {run}", {"": head, **parts}))
    return report


def main() -> None:
    about = "Draw a pretraining run: curves, spectrum of the embeddings, patch tokens."
    config = parse(ReportConfig, prog="pretrain/report.py", about=about, examples=EXAMPLES)
    print(f"report written to {write_report(Path(config.run), config.data)}")


if __name__ == "__main__":
    run_command(main)
