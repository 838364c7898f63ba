"""Classification by captions: an image belongs to the class whose captions it is most similar to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from pretrain.probes.features import embed_images, embed_texts
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError

# The seven that CLIP's authors found to do nearly as well on ImageNet as all of their 80.
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def cross_modal_scores(z_v: Tensor, z_t: Tensor, to_text: Tensor, to_image: Tensor) -> Tensor:
    """Similarity of images to captions, float32[B_v, B_t]: the mean of cos(h_v(z_v), z_t) and cos(z_v, h_t(z_t)).

    This is how the paper reads LeVLJEPA's zero-shot: each predictor maps one modality into the other's space. Where
    the predictors are the identity, it is the cosine.
    """
    z_v, z_t, to_text, to_image = (functional.normalize(part, dim=1) for part in (z_v, z_t, to_text, to_image))
    return 0.5 * (to_text @ z_t.T + z_v @ to_image.T)


def spoken_name(name: str, given: dict[str, str] | None = None) -> str:
    """How a prompt says a class: as `given`, else its folder's name without number and underscores.

    A WordNet id of ImageNet-1k is said by its first lemma: n01440764 -> tench; 02_wheeled vehicle -> wheeled vehicle.
    Raises: UserError if `given` lacks the class, or its folder's name says nothing.
    """
    if given is not None:
        if name not in given:
            raise UserError(f"--class-names has no line for the class {name!r}: every class needs one")
        return given[name]
    is_id = re.fullmatch(r"n\d{8}", name) is not None
    if is_id and (lemmas := _lemmas().get(name)):
        return lemmas.split(",")[0]
    spoken = re.sub(r"^\d+[._-]", "", name).replace("_", " ").strip()
    if is_id or not re.search(r"[^\W\d]", spoken):
        raise UserError(f"the class {name!r} has no name to say: give --class-names FILE with lines of CLASS NAME")
    return spoken


@cache
def _lemmas() -> dict[str, str]:
    """ImageNet-1k's WordNet ids -> lemmas with commas between them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return dict(zip(info.label_names(), info.label_descriptions()))


def read_class_names(path: str | Path) -> dict[str, str]:
    """Lines of a class (a folder's name, a label) and how it is said, as in ImageNet's LOC_synset_mapping.txt.

    A line is split at its first tab, so that a class may have spaces, or else at its first white space. Of several
    names with commas between them the first one counts.
    Raises: UserError if a line has no name, or a class has two lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--class-names {path} cannot be read: {reason}") from None
    names: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, spoken = [*line.split("\t" if "\t" in line else None, maxsplit=1), ""][:2]
        name, spoken = name.strip(), spoken.split(",")[0].strip()
        if not name or not spoken:
            problem = f"the line {line.strip()!r} has no {'name' if name else 'class'}"
            raise UserError(f"--class-names {path}: {problem}; each is CLASS NAME, or with a tab between them")
        if name in names:
            raise UserError(f"--class-names {path}: the class {name!r} has two lines: keep one")
        names[name] = spoken
    return names


@dataclass(frozen=True)
class CaptionClassifier:
    """One z_t and one h_t(z_t) a class, each float32[C, E]: the mean direction of the class over all templates."""

    z_t: Tensor
    to_image: Tensor

    @classmethod
    def build(
        cls,
        encoder: VisionEncoder,
        classes: Sequence[str],
        templates: Sequence[str],
        given: dict[str, str] | None = None,
    ) -> "CaptionClassifier":
        """Embed every class in every template, which has one {}. given: how the classes are said (`spoken_name`).

        Raises: UserError if a template has not one {}, or a class cannot be said.
        """
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(f"--template {template!r} needs one {{}}, where the class goes")
        names = [spoken_name(name, given) for name in classes]
        captions = [template.replace("{}", name) for name in names for template in templates]
        z_t, to_image = (functional.normalize(part, dim=1) for part in embed_texts(encoder, captions))
        by_class = (len(names), len(templates))  # rows of [C * templates, E] belong to the classes in turn
        return cls(z_t.unflatten(0, by_class).mean(1), to_image.unflatten(0, by_class).mean(1))

    def __call__(self, encoder: VisionEncoder, images: Sequence, label: str | None = "zero-shot") -> Tensor:
        """Images -> scores float32[B, C]; collective. A label of None shows no bar."""
        z_v, to_text = embed_images(encoder, images, label)
        return cross_modal_scores(z_v, self.z_t, to_text, self.to_image)
