"""Drawing: anti-aliased silhouettes made once per (shape, size, turn, sub-pixel place), then a blend per object."""

import io
import math
import random
from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from world.scenes import CATEGORIES, SIDE, Scene, Thing

FINE = 8  # sub-pixels per pixel along each axis
SHADE = 0.42  # brightness of outlines and parts (door, eye, trunk) against the object's paint
QUALITY = 92

Points = list[tuple[float, float]]


def _ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    turns = [math.tau * step / 48 for step in range(48)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _star() -> Points:
    corners = [(1.0 if k % 2 == 0 else 0.36, math.pi * k / 4) for k in range(8)]
    return [(r * math.cos(turn), r * math.sin(turn)) for r, turn in corners]


def _heart() -> Points:
    turns = [math.tau * step / 64 for step in range(64)]
    across = [16 * math.sin(t) ** 3 for t in turns]
    up = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(x / 16.5, -(y + 2.5) / 15) for x, y in zip(across, up)]


# Shapes in the square [-1, 1], y downwards, painted in order: "body" adds, "hole" cuts, "part" is a darker piece of it.
SHAPES: dict[str, list[tuple[str, Points]]] = {
    "star": [("body", _star())],
    "heart": [("body", _heart())],
    "moon": [("body", _ellipse(0.1, 0, 0.98, 0.98)), ("hole", _ellipse(0.62, -0.08, 0.80, 0.80))],
    "tree": [
        ("body", _box(-0.17, 0.5, 0.17, 1.0)),
        ("part", _box(-0.17, 0.5, 0.17, 1.0)),
        ("body", [(0, -1), (0.58, -0.12), (-0.58, -0.12)]),
        ("body", [(0, -0.62), (0.86, 0.62), (-0.86, 0.62)]),
    ],
    "house": [
        ("body", _box(-0.76, -0.12, 0.76, 0.95)),
        ("body", _box(0.42, -0.9, 0.68, -0.2)),
        ("body", [(0, -1), (1, 0.0), (-1, 0.0)]),
        ("part", _box(-0.2, 0.28, 0.24, 0.95)),
    ],
    "fish": [
        ("body", _ellipse(-0.24, 0, 0.76, 0.56)),
        ("body", [(0.3, 0), (1.0, -0.6), (0.86, 0), (1.0, 0.6)]),
        ("part", _ellipse(-0.6, -0.14, 0.13, 0.13)),
    ],
    "cup": [
        ("body", _ellipse(0.48, 0.02, 0.5, 0.52)),
        ("hole", _ellipse(0.48, 0.02, 0.26, 0.28)),
        ("body", [(-0.92, -0.7), (0.5, -0.7), (0.4, 0.8), (-0.82, 0.8)]),
        ("part", _ellipse(-0.21, -0.68, 0.62, 0.17)),
    ],
    "key": [
        ("body", _ellipse(-0.48, 0, 0.52, 0.54)),
        ("hole", _ellipse(-0.52, 0, 0.2, 0.22)),
        ("body", _box(-0.1, -0.2, 1.0, 0.2)),
        ("body", _box(0.72, 0.1, 1.0, 0.68)),
        ("body", _box(0.26, 0.1, 0.52, 0.54)),
    ],
}


def _place(points: Points, pixels: int, centre: float) -> Points:
    scale = pixels / 2 * FINE
    return [(centre + scale * x, centre + scale * y) for x, y in points]


@cache
def _fine(category: str, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Cover and dark pieces, float32[S, S] in 0-1, FINE samples a pixel; the centre lies in the middle."""
    side = 2 * (pixels // 2 + 4) * FINE
    body, parts = (Image.new("L", (side, side)) for _ in range(2))
    for role, points in SHAPES[category]:
        placed = _place(points, pixels, side / 2)
        ImageDraw.Draw(parts if role == "part" else body).polygon(placed, fill=0 if role == "hole" else 255)
        if role == "body":  # what is painted later covers earlier parts
            ImageDraw.Draw(parts).polygon(placed, fill=0)
    rim = FINE // 2 + 1
    inner = body
    for step in ((rim, 0), (-rim, 0), (0, rim), (0, -rim)):
        inner = ImageChops.darker(inner, ImageChops.offset(body, *step))
    dark = ImageChops.lighter(ImageChops.subtract(body, inner), ImageChops.darker(parts, body))
    return np.asarray(body, np.float32) / 255, np.asarray(dark, np.float32) / 255


def _shrink(fine: np.ndarray, dx: float, dy: float) -> np.ndarray:
    moved = np.roll(fine, (round(dy * FINE), round(dx * FINE)), (0, 1))
    side = fine.shape[0] // FINE
    return np.repeat(moved.reshape(side, FINE, side, FINE).mean((1, 3))[..., None], 3, 2)  # faster than broadcasting


@cache
def silhouette(category: str, pixels: int, dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
    """(1 - cover, cover * brightness), each float32[S, S, 3]; the centre lies at (S // 2 + dx, S // 2 + dy) pixels."""
    cover, dark = (_shrink(fine, dx, dy) for fine in _fine(category, pixels))
    return 1 - cover, cover - (1 - SHADE) * dark


def _window(thing: Thing) -> tuple[tuple[np.ndarray, ...], tuple[slice, slice], tuple[slice, slice]]:
    """The thing's masks and where they go: (masks, slices of the image, slices of the masks)."""
    column, row = int(thing.x), int(thing.y)
    masks = silhouette(thing.category, thing.pixels, thing.x - column, thing.y - row)
    side = masks[0].shape[0]
    top, left = row - side // 2, column - side // 2
    image = (slice(max(top, 0), min(top + side, SIDE)), slice(max(left, 0), min(left + side, SIDE)))
    rows, columns = image
    mask = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    return masks, image, mask


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    return np.random.default_rng(48).standard_normal((320, 320, 3), dtype=np.float32)


def _blend() -> np.ndarray:
    """How much each of 4x4 knots colours each pixel: float32[48 * 48, 16], rows sum to 1."""
    along = np.clip(1 - np.abs(np.linspace(0, 3, SIDE, dtype=np.float32)[:, None] - np.arange(4)), 0, 1)
    return np.einsum("yi,xj->yxij", along, along).reshape(SIDE * SIDE, 16).astype(np.float32)


_BLEND = _blend()


def background(rng: random.Random) -> np.ndarray:
    """A dull cloudy backdrop with pixel noise: float32[48, 48, 3], 0-255. It depends on `rng` alone."""
    light, tint, rough = rng.uniform(50, 215), rng.uniform(6, 26), rng.uniform(2, 9)
    knots = np.frombuffer(rng.randbytes(51), np.uint8).astype(np.float32).reshape(17, 3) / 127.5 - 1
    smooth = _BLEND @ (light + tint * (knots[:16] + knots[16]))
    top, left = rng.randrange(320 - SIDE), rng.randrange(320 - SIDE)
    return smooth.reshape(SIDE, SIDE, 3) + rough * _noise()[top : top + SIDE, left : left + SIDE]


def draw(things: Iterable[Thing], canvas: np.ndarray) -> np.ndarray:
    """Paint things over a backdrop float32[48, 48, 3] (changed in place); returns uint8[48, 48, 3]."""
    for thing in things:
        (outside, paint), image, mask = _window(thing)
        canvas[image] = canvas[image] * outside[mask] + paint[mask] * np.array(thing.rgb, np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def render(scene: Scene) -> np.ndarray:
    """The scene's picture, uint8[48, 48, 3]; another backdrop: `draw(scene.things, background(other_rng))`."""
    return draw(scene.things, background(scene.rng("background")))


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8[H, W, 3] as JPEG, colour at full resolution: halved, it would smear objects this small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def object_masks(scene: Scene) -> np.ndarray:
    """Which category each pixel shows: uint8[48, 48], 0 = background, k + 1 = CATEGORIES[k]."""
    shown = np.zeros((SIDE, SIDE), np.uint8)
    for thing in scene.things:
        (outside, _), image, mask = _window(thing)
        shown[image][outside[mask][..., 0] < 0.5] = CATEGORIES.index(thing.category) + 1
    return shown


def bounding_box(thing: Thing) -> tuple[int, int, int, int]:
    """(x, y, w, h) in pixels of what is at least half covered by the thing."""
    (outside, _), (rows, columns), mask = _window(thing)
    cover = outside[mask][..., 0] < 0.5
    ys, xs = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    x, y = int(xs[0]), int(ys[0])
    return columns.start + x, rows.start + y, int(xs[-1]) - x + 1, int(ys[-1]) - y + 1
