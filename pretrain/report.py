"""The command `python pretrain/report.py RUN`: RUN/report.html, a run on one page that needs no other file."""

import argparse
import base64
import html
import io
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pretrain import figures
from pretrain.data.pairs import Captions
from pretrain.data.source import open_captions
from pretrain.objective import effective_rank
from pretrain.probes.features import embed
from pretrain.probes.retrieval import tell_passed, usable_pairs
from vlm.encoders.levljepa import Encoder, load_encoder
from vlm.errors import UserError, run_command
from vlm.files import read_json, read_jsonl

PAIRS, SHOWN = 512, 8
EXAMPLES = """examples:
  python pretrain/report.py runs/pretrain
  python pretrain/report.py runs/cc12m --data '/data/coco/val-*.tar'

Curves are there from the first step on; spectrum and patch tokens once the run has written RUN/encoder.
"""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} figure {{ margin: 2em 0 }} figcaption, td:first-child {{ color: #555 }}
td {{ padding: 0 1.5em 0 0 }}
</style>
<h1>{title}</h1>
<table>{rows}</table>
{figures}
</html>
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pretrain/report.py",
        description="Draw a pretraining run: curves, spectrum of the embeddings, patch tokens.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="the folder that pretrain/run.py wrote")
    parser.add_argument("--data", help="captions to embed (default: held-out shards beside the run's, else its own)")
    return parser.parse_args()


def held_out(source: str) -> str:
    """A shard beside train-* shards that is none of them; `source` itself where there is no such file."""
    files = sorted(path for path in Path(source).glob("*") if path.suffix in (".tar", ".parquet", ".arrow"))
    others = [path for path in files if not path.name.startswith("train-")]
    return str(others[0]) if 0 < len(others) < len(files) else source


@torch.no_grad()
def draw_encoder(encoder: Encoder, data: Captions) -> dict[str, Figure]:
    """Spectrum and patch tokens, by what is said of them."""
    images, captions, passed = usable_pairs(data, PAIRS)
    tell_passed(passed, len(images))
    if len(images) < 2:
        raise UserError("the captions hold fewer than 2 usable pairs: give others with --data")
    e = embed(encoder, images, captions)
    embeddings = {"image": e.z_v, "caption": e.z_t}
    ranks = {name: float(effective_rank(z)) for name, z in embeddings.items()}
    pixels = torch.stack([encoder.transform(image) for image in islice(images, SHOWN)])
    tokens = encoder.patch_tokens(pixels.to(encoder.device)).float().cpu()
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.config.mean, encoder.config.std))
    return {
        f"Embeddings of {len(images)} pairs.": figures.spectrum(embeddings, ranks),
        "Patch tokens, coloured by their first three principal components over all images shown.": figures.patches(
            (pixels * std + mean).clamp(0, 1), tokens
        ),
    }


def facts(config: dict, records: list[dict], quarantined: int) -> dict[str, str]:
    """What the head of the page says."""
    losses = [record["loss"] for record in records if record["loss"] is not None]
    return {
        "objective": f"{config['objective']}, preset {config['preset']}, seed {config['seed']}",
        "steps": f"{len(records):,} of {config['steps']:,}, {config['batch_size']:,} pairs each",
        "last loss": f"{losses[-1]:.4f}" if losses else "none finite",
        "steps skipped": str(sum(record.get("skipped", 0) for record in records)),
        "samples that could not be used": f"{quarantined:,}",
        "data": config["data"],
    }


def page(title: str, rows: dict[str, str], drawn: dict[str, Figure]) -> str:
    """One HTML page, pictures inlined."""
    parts = []
    for words, figure in drawn.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        source = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        caption = html.escape(words)
        parts.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return PAGE.format(title=html.escape(title), rows="".join(cells), figures="\n".join(parts))


def main() -> None:
    args = parse()
    config, metrics = read_json(args.run / "config.json"), args.run / "metrics.jsonl"
    records = list(read_jsonl(metrics)) if metrics.exists() else []
    if not records or "objective" not in config:
        raise UserError(f"{args.run} holds no pretraining run with a first step: give the --out of pretrain/run.py")
    bad = args.run / "quarantine.jsonl"
    rows = facts(config, records, sum(1 for _ in read_jsonl(bad)) if bad.exists() else 0)
    drawn = {"What is noisy is faint under its running mean.": figures.curves(records)}
    if (args.run / "encoder").is_dir():
        encoder = load_encoder(args.run / "encoder").to("cuda" if torch.cuda.is_available() else "cpu")
        source = args.data or held_out(config["data"])
        drawn |= draw_encoder(encoder, open_captions(source, config["image_column"], config["caption_column"]))
        rows["embedded"] = f"{source}{'' if args.data or source != config['data'] else ' (the training data)'}"
    (args.run / "report.html").write_text(page(f"Pretraining {args.run}", rows, drawn), encoding="utf-8")
    print(f"report written to {args.run / 'report.html'}")


if __name__ == "__main__":
    run_command(main)
