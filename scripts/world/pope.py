"""POPE's three files by its own rules: https://github.com/RUCAIBox/POPE, main.py and utils.py."""

import random
from collections import Counter
from itertools import permutations

from world.captions import article
from world.scenes import Scene

IMAGES = 500
MODES = ("random", "popular", "adversarial")


def image_name(image_id: int) -> str:
    return f"COCO_val2014_{image_id:012d}.jpg"


def choose_images(scenes: list[Scene], seed: int) -> list[Scene]:
    """Up to 500 scenes with three or more different categories."""
    fit = [scene for scene in scenes if len(scene.counts) >= 3]
    return random.Random(f"{seed}/pope").sample(fit, min(IMAGES, len(fit)))


def _negative(
    mode: str, present: list[str], used: set[str], ranked: list[str], near: list[str], rng: random.Random
) -> str:
    """A category that is neither in the image nor used before for it."""
    order = {"random": [], "popular": ranked, "adversarial": near}[mode]
    free = [name for name in order if name not in present and name not in used]
    return free[0] if free else rng.choice([name for name in ranked if name not in present and name not in used])


def questions(scenes: list[Scene], mode: str, seed: int) -> list[dict]:
    """Six questions an image, yes and no in turn; popularity and co-occurrence are counted over these scenes."""
    rng = random.Random(f"{seed}/pope/{mode}")
    listed = [list(scene.counts) for scene in scenes]
    popular: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for names in listed:
        popular.update(names)
        together.update(permutations(names, 2))
    ranked = sorted(popular, key=lambda name: (-popular[name], name))
    near = {name: sorted(popular, key=lambda other: (-together[name, other], other)) for name in popular}
    lines = []
    for scene, names in zip(scenes, listed):
        used: set[str] = set()
        for positive in names[:3]:
            negative = _negative(mode, names, used, ranked, near[positive], rng)
            used.add(negative)
            for name, label in ((positive, "yes"), (negative, "no")):
                image, text = image_name(scene.image_id), f"Is there {article(name)} in the image?"
                lines.append({"question_id": len(lines) + 1, "image": image, "text": text, "label": label})
    return lines
