"""Images from untrusted bytes to float32 pixels.

The rules, each with a test: only JPEG, PNG, WEBP and GIF are opened; size and shape are judged from the header, before
any pixel is decoded; a truncated file is an error; EXIF orientation is applied; 16-bit greys are scaled (not
clipped) to 8 bits; alpha is composited on white; an animation gives its first frame. One picture takes less than 300 MB
on top of its file: a large one is decoded, or made, smaller, and a format that cannot be so has a lower limit.
"""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from vlm.errors import PIXELS_VARIABLE, UserError, allowed_pixels
from vlm.pixels import resize_uint8, resized_image, to_tensor
from vlm.reading import LARGEST_IMAGE, open_regular, read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MIN_SIDE = 8  # below one patch of any encoder; a 1 x 1 tracking pixel is no picture
MAX_PIXELS = 64_000_000
# Of what needs whole buffers: up to 24 bytes a pixel were measured of WEBP, 9 of a progressive JPEG.
WHOLE_PIXELS = {"WEBP": 12_250_000, "progressive JPEG": 32_000_000}
FULL_PIXELS = 16_000_000  # a picture of more is made smaller, by a whole factor; two ninths of this remain at least
STRIP_PIXELS = 250_000  # that are converted at a time
MAX_ASPECT = 32  # a 5000 x 20 banner squashed to a square shows nothing
# Reduced-size decoding must leave this many pixels for one of the resized image: scripts/bench_loader.py --margins.
DRAFT_MARGIN = 1.5

PILLOW_PIXELS = 89_478_485  # its own limit
# Pillow only warns between 89 and 179 megapixels; `decode` refuses at its own, lower cap in any case.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# Damaged EXIF is common on the web and says nothing about the pixels.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

_ORIENTATION_TAG = 0x0112
# EXIF orientations 2 to 8; 1 is upright.
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_TRANSPOSE = {orientation: Image.Transpose[name] for orientation, name in enumerate(_TURNS, start=2)}
_SIDEWAYS = range(5, 9)  # orientations whose width is the height as it is shown


class ImageError(UserError):
    """Bytes that cannot be used as an image. `.reason` is one of a few short phrases, fit for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def of(self, image: object) -> "ImageError":
        """The same error, which also says of which image."""
        return ImageError(self.reason, f"{image}: {self.detail}")

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


def decode(data: bytes, *, max_pixels: int | None = None, fit: int | None = None) -> Image.Image:
    """Decode to an upright RGB image of at most `FULL_PIXELS`; a larger one is made smaller by a whole factor.

    max_pixels: in place of the limits of its format. fit: the short side that the image will be resized to. A JPEG is
    then decoded at 1/2, 1/4 or 1/8 of its size if at least `DRAFT_MARGIN` * `fit` pixels remain on the short side. The
    image shows the same field either way.
    Raises: ImageError if the bytes are no image, a damaged one, or one of a size or shape that cannot be used.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it for the whole process; it makes grey halves
    try:
        image = _open(io.BytesIO(data), max_pixels)
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            _draft(image, fit)
        image.load()
        reduction = math.ceil(width / image.width)  # 1, 2, 4 or 8; a reduced width is rounded up
        orientation = _orientation(image)
        pixels = image.width * image.height
        factor = 1 if pixels <= FULL_PIXELS else math.ceil(math.sqrt(2 * pixels / FULL_PIXELS))
        image = _to_rgb(image, factor)
        whole_field = _trim(image, width / (reduction * factor), height / (reduction * factor))
        return _turned(whole_field, orientation)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins answer crafted bytes with nearly any exception class
        raise ImageError("damaged image", str(error) or type(error).__name__) from error


def check_header(path: Path) -> None:
    """Judge an image file by its header, without decoding. Raises: ImageError, or OSError if it cannot be read."""
    with open_regular(path) as file:
        try:
            _open(file)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # as in `decode`
            raise ImageError("damaged image", str(error) or type(error).__name__) from error


def upright_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file as it is shown; `load_image` makes a large one smaller. Raises: as `decode`."""
    with open_regular(path) as file:
        image = _open(file)
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def load_image(path: str | Path) -> Image.Image:
    """Read and `decode` one file; `UserError` if it is no regular file, `ImageError` if it is not a usable image."""
    try:
        return decode(read_regular(path, LARGEST_IMAGE))
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from None
    except ImageError as error:
        raise error.of(path) from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB by the rules above: turned as its EXIF says, 16-bit greys scaled, alpha on white.

    Raises: UserError if it is no PIL image, is empty, closed or broken, or has numbers that are no levels of grey.
    """
    if not isinstance(image, Image.Image):
        raise UserError(f"{type(image).__name__} is no PIL image: give vlm.images.load_image(path), or Image.fromarray")
    if 0 in image.size:
        raise UserError(f"an image of {image.width} x {image.height} pixels shows nothing: give another")
    try:
        image.load()  # what was opened is decoded here, or found to be broken
        if image.mode == "F" or (image.mode == "I" and np.asarray(image).max() <= 255):
            raise UserError(f"a PIL image of mode {image.mode} does not tell its white: give uint8 (mode L) or uint16")
        return _turned(_to_rgb(image), _orientation(image))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"the PIL image cannot be read ({error}): open it again") from None


@dataclass(frozen=True)
class EvalTransform:
    """Resize with torch's antialiased filter, divide by 255, normalise: float32[3, image_size, image_size].

    short_side None squashes the whole image to the square. Else the shorter side is resized to it, and the square is
    cut from the centre. The transform everywhere outside augmentation. It equals CLIPImageProcessor to the bit: the
    class that AutoProcessor reloads from a saved VLM, so that served pixels are those that were trained on.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int | None = None
    resample: str = "bicubic"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        image = upright_rgb(image)
        (width, height), (left, upper) = self._geometry(*image.size)
        resized = resize_uint8(image, height, width, self.resample)  # uint8[3, height, width]
        square = resized[:, upper : upper + self.image_size, left : left + self.image_size]
        return to_tensor(square, self.mean, self.std)

    def _geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The width and height to resize to, and the left and upper edge of the square that is kept."""
        side = self.image_size
        if self.short_side is None:
            return (side, side), (0, 0)
        short = min(width, height)
        size = (int(self.short_side * width / short), int(self.short_side * height / short))
        # As transformers cuts: of an odd rest the larger half is on the right and at the bottom.
        return size, ((size[0] - side) // 2, (size[1] - side) // 2)


def _open(file: BinaryIO, max_pixels: int | None = None) -> Image.Image:
    """Parse the header only, and judge format, size and shape."""
    beginning = file.read(12)
    file.seek(0)
    if not beginning:
        raise ImageError("not an image", "the file is empty")
    if given := allowed_pixels():
        Image.MAX_IMAGE_PIXELS = max(PILLOW_PIXELS, given)
    try:
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
    except UnidentifiedImageError:
        raise ImageError("not an image", f"no {'/'.join(FORMATS)} file, it starts with {beginning!r}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too many pixels", str(error)) from None
    most, kind = (max_pixels, "") if max_pixels else _most_pixels(image)
    if width * height > most:
        raise ImageError("too many pixels", f"{width} x {height} is above {most / 1e6:g} megapixels{kind}")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too small", f"{width} x {height}; a side needs at least {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("too elongated", f"{width} x {height}; sides may differ by a factor of {MAX_ASPECT}")
    return image


def _most_pixels(image: Image.Image) -> tuple[int, str]:
    """The limit of an image's format, and how a message goes on."""
    if given := allowed_pixels():
        return given, f" ({PIXELS_VARIABLE})"
    kind = "progressive JPEG" if image.info.get("progressive") else str(image.format)
    if kind in WHOLE_PIXELS:
        return WHOLE_PIXELS[kind], f" of a {kind}; save it as another kind, or set {PIXELS_VARIABLE}"
    return MAX_PIXELS, f"; make it smaller, or set {PIXELS_VARIABLE}"


def _draft(image: Image.Image, fit: int | None) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8: as far as `fit` allows, and as far as `FULL_PIXELS` asks."""
    width, height = image.size
    side = min(width, height) if fit is None else max(1, math.ceil(fit * DRAFT_MARGIN))
    scale = 1
    while width * height > FULL_PIXELS * scale**2:
        scale *= 2
    side = min(side, min(width, height) // scale)
    image.draft(None, (side, side))


def _to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """Convert without turning: 16-bit greys scaled, alpha on white. factor: by which both sides are made smaller.

    In strips: of a large picture with alpha, whole copies would take four times its size.
    """
    if image.mode == "RGB" and factor == 1 and not image.has_transparency_data:
        return image
    width, height = image.size
    rows = max(1, STRIP_PIXELS // (width * factor)) * factor
    if height <= rows:
        return _strip_to_rgb(image).reduce(factor) if factor > 1 else _strip_to_rgb(image)
    rgb = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    for top in range(0, height, rows):
        strip = _strip_to_rgb(image.crop((0, top, width, min(height, top + rows))))
        rgb.paste(strip.reduce(factor), (0, top // factor))
    rgb.info = {name: value for name, value in image.info.items() if name != "transparency"}  # it is on white now
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _scale_16_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_16_bit(image: Image.Image) -> Image.Image:
    """16-bit greys, 0..65535 -> 0..255; convert() would clip everything above 255 to white."""
    values = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # as in `decode`; an image with unreadable EXIF is taken as it lies
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turn and flip as the EXIF value `orientation` (1 to 8) asks."""
    if orientation not in _TRANSPOSE:
        return image
    image = image.transpose(_TRANSPOSE[orientation])
    image.info = {}  # it still holds the EXIF, by which the next reader would turn the image again
    return image


def _trim(image: Image.Image, width: float, height: float) -> Image.Image:
    """Resample to the whole pixels of a field of `width` x `height`.

    A reduced JPEG's sides are rounded up: 477 rows at 1/2 come as 239 for a field of 238.5, and reading them as the
    whole picture would shift its far edge (measured: 4 times the error of the reduction itself).
    """
    if image.size == (width, height):
        return image
    scale = (int(height) / height, int(width) / width)
    return resized_image(image, scale_factor=scale, recompute_scale_factor=False)
