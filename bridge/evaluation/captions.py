"""The true captions that stand in the images' place in the oracle's prompts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from bridge.data.pictures import Picture, TableImage
from vlm.errors import UserError
from vlm.files import read_json


def read_captions(file: str | Path) -> dict[str, str]:
    """Image path relative to the world's root -> its true caption."""
    captions = read_json(file)
    if not isinstance(captions, dict) or not all(isinstance(value, str) for value in captions.values()):
        raise UserError(f'{file} is not a caption file: it must be an object {{"gqa/images/1.jpg": "caption", ...}}')
    return captions


def caption_of(image: Picture, captions: Mapping[str, str], root: Path) -> str:
    """The caption of `image`, by its path below `root` or else by its last three parts; UserError if missing."""
    path, root = Path(image.name) if isinstance(image, TableImage) else image.resolve(), root.resolve()
    key = (path.relative_to(root) if path.is_relative_to(root) else Path(*path.parts[-3:])).as_posix()
    if key not in captions:
        raise UserError(f"there is no caption of {image} (key {key!r}): the oracle row needs one of each image")
    return captions[key]


def captions_by_image(file: str | Path, images: Iterable[Picture]) -> dict[Picture, str]:
    """The caption of each image. Raises a UserError unless `file` has all of them."""
    captions, root = read_captions(file), Path(file).parent
    return {image: caption_of(image, captions, root) for image in images}
