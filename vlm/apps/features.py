"""`vlm features`: what a model's patch tokens hold, as one picture with a column for each image."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlm.apps.attention import attended
from vlm.apps.pictures import Pictures, read_pictures
from vlm.apps.settings import FeaturesSettings
from vlm.apps.status import Status
from vlm.errors import UserError, writing
from vlm.llava.folder import is_llava
from vlm.llava.model import VLM, load
from vlm.llava.parity import connector_input
from vlm.llms.precision import chosen_device

MOST = 24  # images; more columns would be too small to see anything
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


@dataclass(frozen=True)
class Features:
    """Images as a model sees them, and its patch tokens.

    shown: float32[B, 3, H, W] in 0..1. tokens: float32[B, N, D] of N = side * side patches, row by row.
    """

    shown: torch.Tensor
    tokens: torch.Tensor

    @property
    def side(self) -> int:
        """Patches a row, and rows."""
        return round(self.tokens.shape[1] ** 0.5)

    def cosines(self, row: int, column: int) -> torch.Tensor:
        """Cosine of every patch token with one of the first image, float32[B, side, side]."""
        unit = torch.nn.functional.normalize(self.tokens, dim=-1)  # [B, N, D]
        chosen = unit[0, row * self.side + column]  # [D]
        return (unit @ chosen).unflatten(1, (self.side, self.side))


def features(settings: FeaturesSettings) -> None:
    """Write the picture, and print a line about it; with a question also each answer."""
    out = Path(settings.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: give a name that ends in {', '.join(FORMATS)}")
    pictures = read_pictures(settings.images)
    if len(pictures.images) > MOST:
        raise UserError(f"{len(pictures.images)} images are too many for one picture: give {MOST} at most")
    device = chosen_device(settings.device)
    with Status("loading the model"):
        model = _open(settings, device)
    with Status("computing the features"):
        found = vlm_features(model, pictures.images) if isinstance(model, VLM) else encoder_features(model, pictures)
        answers = []
        if isinstance(model, VLM) and settings.question is not None:
            answers = [attended(model, image, settings.question, settings.max_new_tokens) for image in pictures.images]
    patch = chosen_patch(settings.patch, found.side)
    from vlm.apps.features_figure import draw  # matplotlib takes a second

    figure = draw(found, patch, [Path(path).name for path in pictures.paths], settings.question, answers)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    for path, answer in zip(pictures.paths, answers):
        print(f"{path}: {' '.join(answer.text.split())}")
    images = f"{len(found.shown)} image" + "s" * (len(found.shown) > 1)
    print(f"{out}: {images}, {found.side} x {found.side} patches, {found.tokens.shape[2]} wide", file=sys.stderr)


def _open(settings: FeaturesSettings, device: torch.device) -> Any:
    """The VLM, or any encoder by its name."""
    folder = Path(settings.model)
    if is_llava(folder):
        return load(folder, device)
    if settings.question is not None:
        raise UserError(f"--question needs a VLM, which {settings.model} is not: leave it out, or give RUN/vlm")
    from vlm.encoders.by_name import open_encoder

    if (folder / "encoder").is_dir() or (folder / "vlm").is_dir():
        parts = " or ".join(str(folder / name) for name in ("encoder", "vlm") if (folder / name).is_dir())
        raise UserError(f"{folder} is a run: give {parts}")
    return open_encoder(settings.model, image_size=settings.image_size).to(device)


@torch.no_grad()
def encoder_features(encoder: Any, pictures: Pictures) -> Features:
    """Patch tokens of an encoder, after its final norm, without class and register tokens."""
    pixels = torch.stack([encoder.transform(image) for image in pictures.images])
    tokens = [encoder.patch_tokens(each[None].to(encoder.device)).float().cpu() for each in pixels]
    return Features(_shown(pixels, encoder.config.mean, encoder.config.std), torch.cat(tokens))


@torch.no_grad()
def vlm_features(vlm: VLM, images: Sequence[Image.Image]) -> Features:
    """Patch tokens of a VLM as its connector is given them; registers, which come first, are left out."""
    processor: Any = vlm.processor.image_processor
    pixels = processor(images=list(images), return_tensors="pt").pixel_values  # float32[B, 3, H, W]
    vision: Any = vlm.vision_tower.config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens = [connector_input(vlm.model, each[None])[:, -patches:].float().cpu() for each in pixels]
    return Features(_shown(pixels, processor.image_mean, processor.image_std), torch.cat(tokens))


def _shown(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised pixels float32[B, 3, H, W] back in 0..1."""
    centre, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (pixels.float().cpu() * scale + centre).clamp(0, 1)


def chosen_patch(text: str | None, side: int) -> tuple[int, int]:
    """ "ROW,COL" from the upper left, both from 0; without it the patch at the centre.

    Raises: UserError if it is something else, or there is no such patch.
    """
    if text is None:
        return side // 2, side // 2
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--patch {text}: give ROW,COL, such as 0,{side - 1} for the upper right corner") from None
    if not (0 <= row < side and 0 <= column < side):
        raise UserError(f"--patch {text}: there are {side} x {side} patches; ROW and COL go from 0 to {side - 1}")
    return row, column
