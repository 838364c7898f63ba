"""The names by which commands call an encoder, taken apart. Nothing is opened here."""

import os.path
from dataclasses import dataclass, replace
from pathlib import Path

PREFIXED = ("hf", "timm")  # kinds whose names begin with them and a colon


@dataclass(frozen=True)
class EncoderName:
    """[random:]PLACE, [random:]hf:PLACE, [random:]timm:PLACE, or blind.

    kind: levljepa, hf, timm or blind. place: a folder or a hub id; of timm NAME[@SIZE][@FILE]; of blind "". random:
    whether random weights are asked for in place of its own.
    """

    kind: str
    place: str
    random: bool = False

    @property
    def trained(self) -> "EncoderName":
        """The same encoder with its own weights."""
        return EncoderName(self.kind, self.place)

    @property
    def path(self) -> Path | None:
        """The folder or file here that it is read from; None if it comes from elsewhere, or is made."""
        path = Path(os.path.expanduser(self._local))
        return path if self._local and path.exists() else None

    @property
    def absolute(self) -> "EncoderName":
        """The same name in any current folder: if it lies here, with its whole path."""
        if self.path is None:
            return self
        return replace(self, place=self.place.removesuffix(self._local) + str(self.path.absolute()))

    @property
    def _local(self) -> str:
        """The part that may be a path; "" if there is none."""
        return (parse_timm(self.place)[2] or "") if self.kind == "timm" else self.place

    def __str__(self) -> str:
        kind = f"{self.kind}:" if self.kind in PREFIXED else ""
        return "blind" if self.kind == "blind" else ("random:" if self.random else "") + kind + self.place


def parse_timm(place: str) -> tuple[str, int | None, str | None]:
    """NAME[@SIZE][@FILE] -> architecture, image size, file."""
    architecture, _, rest = place.partition("@")
    size, _, file = rest.partition("@")
    if size.isdecimal():
        return architecture, int(size), file or None
    return architecture, None, rest or None


def parse_encoder(name: str) -> EncoderName:
    """ "random:timm:vit_tiny_patch16_224" -> kind timm, place vit_tiny_patch16_224, random."""
    if name == "blind":
        return EncoderName("blind", "")
    source = name.removeprefix("random:")
    kind, _, place = source.partition(":")
    prefixed = kind in PREFIXED and bool(place)
    return EncoderName(kind if prefixed else "levljepa", place if prefixed else source, name != source)
