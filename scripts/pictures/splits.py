"""Which pictures train, and which are held out: by name, by maker, and by both."""

import hashlib
from collections.abc import Sequence

from pictures.sources import Picture

HELD_OUT, FOR_SETTINGS = 0.11, 0.03  # shares of the families
SPLITS = ("train", "val", "names", "vendor", "both")


def split(pictures: Sequence[Picture], unseen: str) -> dict[str, list[Picture]]:
    """Split -> its pictures, in an order in which the first ones are a fair sample. unseen: the maker that is held out.

        train   names and makers to train on        names   names never seen, of makers that were
        val     names to choose settings on         vendor  the unseen maker, names that were seen of others
        both    the unseen maker and names never seen

    A family of names is on one side alone ("man running" and "woman running"). Which side depends on it alone, not on
    what else there is. The unseen maker's pictures of val's names are left out: settings were chosen on these names.
    """
    found: dict[str, list[Picture]] = {name: [] for name in SPLITS}
    # Packages list their pictures by kind, all smileys first, and tools read the first so many of a set.
    for picture in sorted(pictures, key=lambda each: _share(f"order/{each.maker}/{each.name}/{each.path.name}")):
        side = _side(picture.family)
        if picture.maker == unseen:
            side = {"train": "vendor", "names": "both"}.get(side, "")
        if side:
            found[side].append(picture)
    return found


def _side(family: str) -> str:
    share = _share(f"pictures/{family}")
    return "names" if share < HELD_OUT else "val" if share < HELD_OUT + FOR_SETTINGS else "train"


def _share(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
