"""Model cards: README.md of RUN/vlm, RUN/encoder and exports, as the Hugging Face hub reads it.

A card has the sections Use, Parts, Data, Scores and Training. A later command puts another text into one of them and
leaves the others as they are, whoever wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from vlm.cards.licences import Part, of_whole
from vlm.errors import UserError, one_line
from vlm.files import write_file
from vlm.markdown import ruled

FILE = "README.md"
NOT_SCORED = "Not evaluated yet."
NON_COMMERCIAL = "Weights for non-commercial use only are inside, or what began from such: that binds this model too."


def vlm_use(name: str, where: str = "") -> str:
    """Three lines of stock code. name: the folder or hub id. where: a line in front of them."""
    return f"""\
{where}

```python
from transformers import pipeline

ask = pipeline("image-text-to-text", model="{name}")
content = [{{"type": "image", "path": "photo.jpg"}}, {{"type": "text", "text": "What is on the table?"}}]
print(ask(text=[{{"role": "user", "content": content}}], return_full_text=False)[0]["generated_text"])
```
""".lstrip()


def encoder_use(architecture: str, image_size: int, sizes: Mapping[str, int]) -> str:
    """The ViT of the released layout by timm alone, from inside the folder. sizes: keyword arguments of timm's ViT."""
    given = ", ".join(f"{name}={value}" for name, value in sizes.items())
    return f"""\
In this folder:

```python
import timm
from safetensors.torch import load_file

stored = load_file("vision_encoder.safetensors")
sizes = dict(img_size={image_size}, {given})
vit = timm.create_model("{architecture}", num_classes=0, **sizes).eval()
vit.load_state_dict({{k.removeprefix("encoder."): v for k, v in stored.items() if k.startswith("encoder.")}})
```

`vit.forward_features(pixels)[:, 1:]` are the patch tokens; `normalization` in `config.json` has the pixel statistics.
With LeVLM, `vlm.load_encoder(DIR)` also embeds captions.
"""


def encoder_about(objective: str) -> str:
    """What RUN/encoder is, in a sentence."""
    return (
        "A ViT and a GPT-2 text tower, trained together from images and captions by LeVLM's objective "
        f"`{objective}`; the files have the released LeVLJEPA layout."
    )


def of_vit_alone(card: ModelCard, title: str) -> ModelCard:
    """An encoder's card under another name, for an export that holds its ViT and no text tower, in another layout."""
    both = re.compile(re.escape(encoder_about("OBJECTIVE")).replace("OBJECTIVE", "([^`]+)"))
    alone = r"A ViT, trained with a text tower that is not in here, on images and captions by LeVLM's objective `\1`."
    text = re.sub(r"\A\s*# .*", lambda _: f"# {title}", both.sub(alone, card.text))
    data: Any = card.data
    data.model_name = title
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def make_card(
    title: str,
    about: str,
    use: str,
    parts: Sequence[Part],
    data: Mapping[str, str],
    settings: Mapping[str, Any],
    **metadata: Any,
) -> ModelCard:
    """A new card. data: what was trained on -> a digest of its content. metadata: fields of `ModelCardData`."""
    licence = of_whole(parts)
    if bases := [part.hub_id for part in parts if part.hub_id]:
        metadata["base_model"] = bases
    head = ModelCardData(model_name=title, license=licence, **metadata)
    head.tags = ["levlm", *(head.tags or [])]
    sections = {
        "Use": use,
        "Parts": _table(("part", "what", "licence"), [(part.role, part.name, part.says()) for part in parts])
        + (f"\n{NON_COMMERCIAL}\n" if licence and "-nc" in licence else ""),
        "Data": _table(("data", "digest of its content (SHA-256)"), list(data.items())),
        "Scores": NOT_SCORED + "\n",
        "Training": _table(("setting", "value"), [(name, value) for name, value in settings.items() if _tells(value)]),
    }
    text = "\n".join(f"## {name}\n\n{body}" for name, body in sections.items() if body)
    return ModelCard(f"---\n{head.to_yaml()}\n---\n\n# {title}\n\n{about}\n\n{text}")


def with_section(card: ModelCard, name: str, body: str) -> ModelCard:
    """`card` with another text in the section `## name`, which is put at the end if there is none."""
    pattern = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    section = f"## {name}\n\n{body}\n"
    text, found = pattern.subn(lambda _: section, card.text, count=1)
    if not found:
        text = f"{card.text.rstrip()}\n\n{section}"
    return ModelCard(f"---\n{card.data.to_yaml()}\n---\n{text.rstrip()}\n")


def read_card(folder: Path) -> ModelCard | None:
    """The card in `folder`, if there is one; `UserError` if its head is no metadata."""
    if not (folder / FILE).is_file():
        return None
    try:
        return ModelCard.load(folder / FILE)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder / FILE} is no model card ({one_line(error)}): mend or remove it") from None


def write_card(card: ModelCard, folder: Path) -> None:
    """Put the card into `folder`: the old text or the new one, never a part."""
    write_file(folder / FILE, str(card).rstrip() + "\n")


def _tells(value: Any) -> bool:
    """Whether a setting says anything: not one that was left out."""
    return value not in (None, "", ())


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; "" without rows."""
    if not rows:
        return ""
    return "\n".join([*ruled([head, *rows], words=len(head)), ""])
