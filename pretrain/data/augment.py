"""Training-time image transforms by name: those of the two published codes, and DINO's crops.

Every transform gives uint8: pixels travel in a byte and are normalised on the device, where the model reads them.
"""

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2.functional import to_pil_image

from pretrain.config import PretrainConfig
from vlm.pixels import interpolate_uint8, levels_of, resize_uint8

GREY = 0.299, 0.587, 0.114  # of red, green and blue: ITU-R 601, as PIL and torchvision
RATIO = 3 / 4, 4 / 3  # of a crop's width to its height, in proportion to the image's pixels
THRESHOLD = 128  # from which solarising turns a level around


@dataclass(frozen=True)
class View:
    """A random resized crop, flipped by half, and with probabilities `p_*` jittered, greyed, blurred and solarised.

    The distributions are torchvision's. The crop is resized by torch's antialiased bicubic filter, which reads uint8 in
    a fifth of the time of PIL's (`vlm.pixels.resize_uint8` says by what they differ). Colours are changed in float32
    and rounded once, not after every operation.
    """

    size: int
    scale: tuple[float, float]  # share of the area
    jitter: tuple[float, float, float, float]  # half-widths for brightness, contrast, saturation and hue
    p_jitter: float
    p_grey: float
    p_blur: float = 0.0
    p_solarise: float = 0.0
    blur_pixel: float = 1.0  # the unit of the blur's radius, .1 to 2 of which are drawn

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """`levels_of` an image -> uint8[3, size, size]; the draw depends on the state of the generator alone."""

        def happens(probability: float) -> bool:
            return uniform(generator, 0, 1) < probability

        top, left, height, width = crop_box(pixels.shape[1], pixels.shape[2], self.scale, generator)
        crop = pixels[:, top : top + height, left : left + width]
        view = interpolate_uint8(crop, size=(self.size, self.size))
        if happens(0.5):
            view = view.flip(2)
        if happens(self.p_jitter):
            view = _rounded(jittered(_levels(view), self.jitter, generator))
        if happens(self.p_grey):
            view = _rounded(grey(_levels(view)).expand(3, -1, -1))
        if happens(self.p_blur):
            view = blurred(view, self.blur_pixel * uniform(generator, 0.1, 2.0))
        if happens(self.p_solarise):
            view = torch.where(view < THRESHOLD, view, 255 - view)
        return view


class CropJitter:
    """The second published code's: random resized crop (.8-1), flip, mild colour jitter, rare greyscale."""

    enlarges = 0.8**-0.5  # the smallest crop has .8 of the area: the image is decoded that much larger

    def __init__(self, image_size: int):
        self.view = View(image_size, (0.8, 1.0), (0.2, 0.2, 0.2, 0.02), p_jitter=0.3, p_grey=0.05)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> uint8[3, image_size, image_size]."""
        return self.view(levels_of(image), generator)


class Squash:
    """The first published code's: resize to a square, no augmentation; evaluation's pixels."""

    enlarges = 1.0

    def __init__(self, image_size: int):
        self.image_size = image_size

    def __call__(self, image: Image.Image, generator: torch.Generator) -> torch.Tensor:
        """An RGB image -> uint8[3, image_size, image_size]."""
        return resize_uint8(image, self.image_size, self.image_size)


class MultiCrop:
    """DINO's views (arXiv 2104.14294): 2 global crops (.4-1 of the area) and 4 small local ones (.05-.4).

    Each is flipped, jittered, greyed and blurred on its own; the second global one may be solarised. DINO's blur is
    meant for 224 pixels and scaled to other sizes.
    """

    LOCAL = 4

    def __init__(self, image_size: int, local_size: int):
        self.enlarges = max(0.4**-0.5, local_size / image_size * 0.05**-0.5)

        def view(size: int, scale: tuple[float, float], p_blur: float, p_solarise: float = 0.0) -> View:
            return View(size, scale, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, p_blur, p_solarise, image_size / 224)

        self.global_views = view(image_size, (0.4, 1.0), p_blur=1.0), view(image_size, (0.4, 1.0), 0.1, p_solarise=0.2)
        self.local_view = view(local_size, (0.05, 0.4), p_blur=0.5)

    def __call__(self, image: Image.Image, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """An RGB image -> uint8[2, 3, H, W], uint8[4, 3, h, w]."""
        pixels = levels_of(image)
        global_crops = [view(pixels, generator) for view in self.global_views]
        local_crops = [self.local_view(pixels, generator) for _ in range(self.LOCAL)]
        return torch.stack(global_crops), torch.stack(local_crops)


def crop_counts(config: PretrainConfig) -> dict[int, int]:
    """How many crops of each size, in pixels, `augmentation` makes of an image."""
    if config.augmentation == "dino":
        return {config.image_size: 2, config.local_size: MultiCrop.LOCAL}
    return {config.image_size: 1}


def augmentation(config: PretrainConfig) -> CropJitter | Squash | MultiCrop:
    """The transform that --augmentation names."""
    if config.augmentation == "dino":
        return MultiCrop(config.image_size, config.local_size)
    return {"crop-jitter": CropJitter, "squash": Squash}[config.augmentation](config.image_size)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def crop_box(
    height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop with a share `scale` of the area, as torchvision draws it."""
    for _ in range(10):
        area = height * width * uniform(generator, *scale)
        ratio = math.exp(uniform(generator, math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform(generator, 0, height - h + 1))
            return top, int(uniform(generator, 0, width - w + 1)), h, w
    # An elongated image: the largest central crop of an allowed shape.
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def jittered(
    levels: torch.Tensor, halves: tuple[float, float, float, float], generator: torch.Generator
) -> torch.Tensor:
    """float32[3, H, W] in 0..255 -> the same, brightness, contrast, saturation and hue changed in a drawn order."""
    order = sorted(range(4), key=lambda _: uniform(generator, 0, 1))
    for operation in order:
        change = uniform(generator, -halves[operation], halves[operation])
        if operation == 0:
            levels = levels * (1 + change)
        elif operation == 1:
            levels = torch.lerp(grey(levels).mean(), levels, 1 + change)
        elif operation == 2:
            levels = torch.lerp(grey(levels), levels, 1 + change)
        else:
            levels = hue_turned(levels, change)
        levels = levels.clamp_(0, 255)
    return levels


def grey(levels: torch.Tensor) -> torch.Tensor:
    """float32[3, H, W] -> float32[1, H, W]."""
    red, green, blue = levels
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])[None]


def hue_turned(levels: torch.Tensor, turn: float) -> torch.Tensor:
    """float32[3, H, W] -> the same with each pixel's hue turned by `turn` of the circle: HSV's value, saturation stay.

    A channel is V - C at the far side of the hue circle and V near its own hue, with a slope of one sixth of the circle
    on either side (V the largest channel, C the largest less the smallest):

        channel = V - C clamp(2 - |d|, 0, 1),    d the hue's distance from the channel's opposite, in sixths, -3..3
    """
    red, green, blue = levels
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    steepness = 1 / chroma.clamp(min=1e-6)  # grey pixels have no hue, and get that of red
    # The hue in sixths, by the largest channel. Masks as numbers: torch.where takes three times as long.
    hue = (red - green).mul_(steepness).add_(4)
    hue.lerp_((blue - red).mul_(steepness).add_(2), (value == green).float())
    hue.lerp_((green - blue).mul_(steepness), (value == red).float())
    opposite = levels.new_tensor([3.0, 5.0, 1.0])[:, None, None]  # cyan, magenta, yellow
    d = hue + (6 * turn - opposite)
    d.sub_((d / 6).round_(), alpha=6)
    return value - d.abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma)


def blurred(view: torch.Tensor, radius: float) -> torch.Tensor:
    """uint8[3, H, W] -> the same through PIL's Gaussian blur."""
    return levels_of(to_pil_image(view).filter(ImageFilter.GaussianBlur(radius)))[:3]


def _levels(view: torch.Tensor) -> torch.Tensor:
    """uint8[3, H, W] -> float32, channel by channel in memory."""
    return view.to(torch.float32, memory_format=torch.contiguous_format)


def _rounded(levels: torch.Tensor) -> torch.Tensor:
    return levels.round().to(torch.uint8)
