"""A pretraining run on one HTML page that needs no other file: facts, curves, spectrum, patch tokens."""

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
from vlm.errors import UserError
from vlm.files import read_json, read_jsonl

EMBEDDED_PAIRS, SHOWN_IMAGES = 512, 8
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


def held_out(source: str) -> str:
    """A shard beside train-* shards that is none of them; `source` itself if there is no such file."""
    files = sorted(path for path in Path(source).glob("*") if path.suffix in (".tar", ".parquet", ".arrow"))
    others = [path for path in files if not path.name.startswith("train-")]
    return str(others[0]) if 0 < len(others) < len(files) else source


@torch.no_grad()
def draw_encoder(encoder: Encoder, data: Captions) -> dict[str, Figure]:
    """Spectrum and patch tokens, by caption."""
    images, captions, passed = usable_pairs(data, EMBEDDED_PAIRS)
    tell_passed(passed, len(images))
    if len(images) < 2:
        raise UserError("the captions hold fewer than 2 usable pairs: give others with --data")
    e = embed(encoder, images, captions)
    embeddings = {"image": e.z_v, "caption": e.z_t}
    ranks = {name: float(effective_rank(z)) for name, z in embeddings.items()}
    pixels = torch.stack([encoder.transform(image) for image in islice(images, SHOWN_IMAGES)])
    tokens = encoder.patch_tokens(pixels.to(encoder.device)).float().cpu()
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.config.mean, encoder.config.std))
    shown = (pixels * std + mean).clamp(0, 1)  # float32[8, 3, H, W]
    return {
        f"Embeddings of {len(images)} pairs.": figures.spectrum(embeddings, ranks),
        "Patch tokens, coloured by their first three principal components over all images shown.": figures.patches(
            shown, tokens
        ),
    }


def facts(config: dict, records: list[dict], quarantined: int) -> dict[str, str]:
    """The table at the head of the page."""
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
    """One HTML page. rows: of the table; drawn: figures by caption, which are inlined as PNG."""
    parts = []
    for words, figure in drawn.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        source = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        caption = html.escape(words)
        parts.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return PAGE.format(title=html.escape(title), rows="".join(cells), figures="\n".join(parts))


def write_report(run: Path, data: str | None) -> Path:
    """Write RUN/report.html; data: captions to embed, found by itself if None.

    Raises:
        UserError: `run` holds no pretraining run with a first step, or the captions cannot be read.
    """
    config, metrics = read_json(run / "config.json"), run / "metrics.jsonl"
    records = list(read_jsonl(metrics)) if metrics.exists() else []
    if not records or "objective" not in config:
        raise UserError(f"{run} holds no pretraining run with a first step: give the --out of pretrain/run.py")
    bad = run / "quarantine.jsonl"
    rows = facts(config, records, sum(1 for _ in read_jsonl(bad)) if bad.exists() else 0)
    drawn = {"What is noisy is faint under its running mean.": figures.curves(records)}
    if (run / "encoder").is_dir():
        encoder = load_encoder(run / "encoder").to("cuda" if torch.cuda.is_available() else "cpu")
        source = data or held_out(config["data"])
        drawn |= draw_encoder(encoder, open_captions(source, config["image_column"], config["caption_column"]))
        rows["embedded"] = source + ("" if data or source != config["data"] else " (the training data)")
    report = run / "report.html"
    report.write_text(page(f"Pretraining {run}", rows, drawn), encoding="utf-8")
    return report
