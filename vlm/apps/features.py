"""`vlm features`: what a model's patch tokens hold, as one picture with a column for each image."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlm.apps.attention import attended
from vlm.apps.features_figure import draw
from vlm.apps.patch_tokens import encoder_features, vlm_features
from vlm.apps.pictures import read_pictures
from vlm.apps.settings import FeaturesSettings
from vlm.apps.status import Status
from vlm.errors import UserError
from vlm.files import write_figure
from vlm.hub import is_hub_id, model_folder
from vlm.llava.folder import is_llava
from vlm.llava.model import VLM, load
from vlm.llms.precision import chosen_device

MOST = 24  # images; more columns would be too small to see anything
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def features(settings: FeaturesSettings) -> None:
    """Write the picture, and print a line about it; with a question also each answer."""
    out = Path(settings.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: give a name that ends in {', '.join(FORMATS)}")
    pictures = read_pictures(settings.images)
    if len(pictures.images) > MOST:
        raise UserError(f"{len(pictures.images)} images are too many for one picture: give {MOST} at most")
    _keep_pictures(out, pictures.paths)
    device = chosen_device(settings.device)
    with Status("loading the model"):
        model = _open(settings, device)
    with Status("computing the features"):
        found = (
            vlm_features(model, pictures.images) if isinstance(model, VLM) else encoder_features(model, pictures.images)
        )
        answers = []
        if isinstance(model, VLM) and settings.question is not None:
            answers = [attended(model, image, settings.question, settings.max_new_tokens) for image in pictures.images]
    patch = chosen_patch(settings.patch, found.side)
    figure = draw(found, patch, [Path(path).name for path in pictures.paths], settings.question, answers)
    write_figure(out, figure)
    for path, answer in zip(pictures.paths, answers):
        print(f"{path}: {' '.join(answer.text.split())}")
    images = f"{len(found.shown)} image" + "s" * (len(found.shown) > 1)
    print(f"{out}: {images}, {found.side} x {found.side} patches, {found.tokens.shape[2]} wide", file=sys.stderr)


def _keep_pictures(out: Path, paths: Sequence[str]) -> None:
    """Raise a UserError if `out` is one of the pictures that are drawn: it would be overwritten."""
    for path in paths:
        if out.exists() and os.path.samefile(out, path):
            raise UserError(f"--out {out} is one of the pictures, which it would replace: give another name")


def _open(settings: FeaturesSettings, device: torch.device) -> Any:
    """The VLM, or any encoder by its name."""
    folder = Path(settings.model)
    if is_llava(folder) or _is_vlm_of_hub(settings.model):
        if settings.image_size is not None:
            raise UserError(f"--image-size is of an encoder, and {settings.model} is a VLM: leave it out")
        return load(settings.model, device)
    if settings.question is not None:
        raise UserError(f"--question needs a VLM, which {settings.model} is not: leave it out, or give RUN/vlm")
    from vlm.encoders.by_name import open_encoder

    if (folder / "encoder").is_dir() or (folder / "vlm").is_dir():
        parts = " or ".join(str(folder / name) for name in ("encoder", "vlm") if (folder / name).is_dir())
        raise UserError(f"{folder} is a run: give {parts}")
    return open_encoder(settings.model, image_size=settings.image_size).to(device)


def _is_vlm_of_hub(name: str) -> bool:
    """Whether `name` is the hub id of a VLM, by its config.json: only then the rest is fetched as that of one."""
    if Path(name).exists() or not is_hub_id(name):
        return False
    return is_llava(model_folder(name, ["config.json"], "give RUN/vlm or RUN/encoder"))


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
