"""What every source of image-caption pairs offers, whatever the files behind it."""

import codecs
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from pretrain.data.captions import CAPTION_BYTES, BadSample, Caption
from pretrain.data.order import Order

CAPTION_CHARACTERS = 10_000  # that are kept of a caption
FINGERPRINT_ROWS = 16  # whose content is in the fingerprint, beside the first and the last
CAPTIONS_AHEAD = 1024  # that are requested at a time, where reading is slow


class Captions(ABC):
    """Image-caption pairs by number 0 .. len - 1; `counts`: int64[shards], the pairs of each shard."""

    counts: np.ndarray
    reads_ahead = False  # whether `prefetch` does anything

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with the data, not with the place where it lies; a run goes on with equal data alone."""

    @abstractmethod
    def read(self, number: int) -> tuple[bytes | None, Caption]:
        """The image file's and the caption's bytes, or those of several captions; None for what the source lacks.

        Raises: OSError if it cannot be read just now, BadSample if it never can.
        """

    @abstractmethod
    def caption(self, number: int) -> Caption:
        """As `read`, without the image."""

    @abstractmethod
    def identify(self, number: int) -> tuple[str, int]:
        """The shard's name and the sample's index in it: its identity."""

    def order(self, seed: int) -> Any:
        """The sequence of sample numbers over all epochs; `indices` gives any stretch of it."""
        return Order(self.counts, seed)

    def parts(self) -> list[tuple[str, "Captions"]]:
        """The sources of a mixture, each with its label; of a single source itself, without one."""
        return [("", self)]

    def part(self, number: int) -> int:
        """Which of the parts a sample belongs to."""
        return 0

    def alternatives(self, number: int) -> range:
        """The samples from which one is drawn in place of an unusable one."""
        return range(len(self))

    def prefetch(self, *steps: Iterable[int], images: bool = True) -> None:  # noqa: B027
        """Begin to read the samples of the coming steps, soonest first, where that is slow; images: not captions alone.

        What was begun for other samples is dropped.
        """

    def key(self, number: int) -> str | None:
        """The name that the data gives the sample; not unique."""
        return None

    def unusable(self) -> Iterator[dict]:
        """Quarantine records of what is known to be unusable before anything is read; it has no number."""
        return iter(())

    def reasons(self) -> Counter:
        """How many samples are known to be unusable before anything is read, by reason."""
        return Counter()

    def notices(self) -> Iterator[str]:
        """What else a user has to know of what is there and not read, a line each."""
        return iter(())

    def first_captions(self, count: int) -> list[str]:
        """The usable ones of the first `count` samples' captions in stored order; for training a tokenizer."""
        stop, texts = min(count, len(self)), []
        for first in range(0, stop, CAPTIONS_AHEAD):
            numbers = range(first, min(first + CAPTIONS_AHEAD, stop))
            self.prefetch(numbers, images=False)
            for number in numbers:
                with suppress(BadSample, OSError):
                    texts += usable_captions(self.caption(number))
        return texts


def usable_captions(raw: Caption) -> list[str]:
    """The captions of a sample, cleaned, without those that are empty. Raises: BadSample if one is UTF-16."""
    cleaned = [clean_caption(text) for text in (raw if isinstance(raw, list) else [raw])]
    return [text for text in cleaned if text]


def clean_caption(raw: bytes | None) -> str:
    """Decode a caption: UTF-8 with replacement, without NUL, white space normalised, at most 10,000 characters.

    A byte order mark at its start is none of its text. A caption of nothing but spaces, zero-width and control
    characters shows nothing: "".
    Raises: BadSample if its byte order mark is that of UTF-16, which would be read as noise.
    """
    raw = raw or b""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadSample("caption is UTF-16, not UTF-8")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    whole = len(raw) < CAPTION_BYTES  # else it was cut, perhaps within its last character
    words = decoder.decode(raw.removeprefix(codecs.BOM_UTF8), final=whole).replace("\0", "").split()
    text = " ".join(words)[:CAPTION_CHARACTERS].rstrip()
    return text if any(unicodedata.category(c) not in ("Cc", "Cf", "Zs") for c in text) else ""


def fingerprint_rows(rows: int) -> list[int]:
    """First, last, and what a generator keyed by their number draws: the same rows on every machine."""
    if not rows:
        return []
    drawn = np.random.default_rng(rows).integers(rows, size=FINGERPRINT_ROWS)
    return sorted({0, rows - 1, *drawn.tolist()})
