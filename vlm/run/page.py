"""One HTML page that needs no other file, light or dark as the reader's system is: both stages' reports are one.

Figures are inlined as SVG whose colours follow the page, pictures as data URIs. Nothing is fetched from anywhere.
"""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlm.run.colours import DARK

if TYPE_CHECKING:  # `--help` must not wait for matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

SMALL = 128  # pixels: up to this size a picture is kept without loss, and enlarged in whole pixels
LARGEST = 480  # pixels of a picture's longer side, on the page
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d5dae0; --card: #f5f7f9;
  --right: #1a7f37; --wrong: #b5312b; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e4e7ea; --faint: #9aa4ae; --line: #343b42;
  --card: #1d2227; --right: #56c271; --wrong: #ff8078; DARK } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1100px;
  margin: 2em auto; padding: 0 1em }
h2 { margin-top: 2em; border-bottom: 1px solid var(--line) } h3 { margin-bottom: .5em }
figure { margin: 1.5em 0 } figcaption, .note, td:first-child, summary { color: var(--faint) }
svg { max-width: 100%; height: auto; color: var(--ink) } svg text { fill: currentColor }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .15em 1.5em .15em 0; text-align: left; font-variant-numeric: tabular-nums; vertical-align: top }
thead th { border-bottom: 1px solid var(--line) } td { overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 1em }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7em }
.card img { width: 100%; height: 170px; object-fit: contain; display: block; margin-bottom: .5em }
img.small { image-rendering: pixelated }
.card p { margin: .3em 0; overflow-wrap: anywhere } .right { color: var(--right) } .wrong { color: var(--wrong) }
pre { overflow-x: auto; font-size: 13px }
""".replace("LIGHT", " ".join(f"--c{colour[1:]}: {colour};" for colour in DARK)).replace(
    "DARK", " ".join(f"--c{colour[1:]}: {dark};" for colour, dark in DARK.items())
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style></head>
<body><h1>{title}</h1>
{sections}
</body></html>
"""


def page(title: str, sections: Mapping[str, str]) -> str:
    """The page. sections: heading -> HTML, in order; one without a heading, "", comes right under the title."""
    parts = [f"<h2>{html.escape(name)}</h2>\n{body}" if name else body for name, body in sections.items()]
    return PAGE.format(title=html.escape(title), style=STYLE, sections="\n".join(parts))


def table(rows: Sequence[Sequence[str]], header: bool = False) -> str:
    """Rows of text. header: whether the first one is the columns' names."""
    head = f"<thead>{_row(rows[0], 'th')}</thead>" if header else ""
    body = "".join(_row(row, "td") for row in rows[1 if header else 0 :])
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def folded(summary: str, body: str) -> str:
    """HTML that opens by a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def settings_table(config: Mapping) -> str:
    """Every setting of a run, folded."""
    return folded("every setting", table([[name, str(value)] for name, value in config.items()]))


def drawn(caption: str, figure: "Figure") -> str:
    """A figure above its caption."""
    words = html.escape(caption)
    return f"<figure>{svg(figure, caption)}<figcaption>{words}</figcaption></figure>"


def svg(figure: "Figure", label: str) -> str:
    """A figure as inline SVG that follows the page: black is its ink, white its ground, and the colours of
    `vlm.run.colours` have their twins.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):  # text stays text; ids by content
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    for colour, ours in (("#000000", "currentColor"), ("#ffffff", "var(--page)"), ("#555555", "var(--faint)")):
        text = text.replace(colour, ours)
    for colour in DARK:
        text = text.replace(colour, f"var(--c{colour[1:]})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def picture(image: "Image.Image", alt: str) -> str:
    """A picture, not larger than the page needs, as a data URI."""
    small = max(image.size) <= SMALL
    shown = image.convert("RGB")
    shown.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    kind, options = ("PNG", {}) if small else ("JPEG", {"quality": 85})
    shown.save(file, format=kind, **options)
    source = f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()
    style = ' class="small"' if small else ""
    return f'<img{style} alt="{html.escape(alt)}" src="{source}">'
