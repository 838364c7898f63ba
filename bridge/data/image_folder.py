"""The image files that questions name."""

import os
from pathlib import Path
from typing import Protocol

from bridge.data.pictures import Picture
from vlm.errors import UserError
from vlm.reading import inside


class Images(Protocol):
    """Finds pictures by name; `missing` are those that were looked for in vain."""

    missing: set[Path]

    def find(self, name: str) -> Picture: ...


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """Image files below `root`, each folder listed once: a million `stat` calls on a network disk take minutes.

    `missing` holds the paths that were looked for in vain. A folder that is not there is a UserError.
    links: follow links that lead out of the folder, as people have images on another disk; to image files alone. Else
    they are a UserError, since whoever made the data set may have made them.
    """

    def __init__(self, root: Path, links: bool = False):
        if not root.is_dir():
            raise UserError(
                f"the image folder {root} is missing: the images belong there, see the data set's download page"
            )
        self.root, self.links = root, links
        self.missing: set[Path] = set()
        self._listings: dict[Path, dict[str, bool]] = {}  # of a folder its names, and whether each is a link
        self._found: dict[str, Path] = {}

    def find(self, name: str) -> Path:
        """The path of `name`, or of its twin with another image suffix; if there is neither it goes to `missing`."""
        if name not in self._found:
            inner, root = Path(name), self.root.absolute()
            if inner.is_absolute() and inner.is_relative_to(root):
                inner = inner.relative_to(root)
            path = self.root / inner
            if inner.is_absolute() or ".." in inner.parts:
                raise UserError(f"image name {name!r} leads out of {self.root}: names must lie inside the image folder")
            folder = path.parent
            if folder not in self._listings:
                self._listings[folder] = self._listing(folder)
            # Only a suffix of images is exchanged: "1.5" is not the name of 1.jpg.
            stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
            twins = [path.name, *(stem + spelt for suffix in SUFFIXES for spelt in (suffix, suffix.upper()))]
            present = [path.with_name(twin) for twin in twins if twin in self._listings[folder]]
            is_link = bool(present) and self._listings[folder][present[0].name]
            if not present or (is_link and not present[0].exists()):
                self.missing.add(path)
            elif is_link and not (inside(present[0], [self.root]) or (self.links and _is_image(present[0]))):
                raise UserError(
                    f"image name {name!r} leads out of {self.root} by a link: copy the image into the folder, or give "
                    "the folder that the links lead to"
                )
            self._found[name] = present[0] if present else path
        return self._found[name]

    def _listing(self, folder: Path) -> dict[str, bool]:
        if not folder.is_dir():
            return {}
        if folder != self.root and not self.links and not inside(folder, [self.root]):
            raise UserError(f"{folder} leads out of {self.root} by a link: give the folder that it leads to")
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if not entry.is_dir(follow_symlinks=False)}


def _is_image(link: Path) -> bool:
    """Whether what a link leads to is a regular file with the name of an image."""
    real = Path(os.path.realpath(link))
    return real.suffix.lower() in SUFFIXES and real.is_file()


class CocoFolder:
    """COCO's images below `root`, under their names of 2014 or of 2017: the same pictures, newly divided.

    COCO_val2014_000000000042.jpg is looked for in val2014/, then as 000000000042.jpg in val2014/, train2017/ and
    val2017/; a test image in test2015/ and test2017/. What is not found has its name of 2014.
    """

    def __init__(self, root: Path, subtype: str):
        newer = ("test2017",) if subtype.startswith("test") else ("train2017", "val2017")
        names = [name for name in (subtype, *newer) if (root / name).is_dir()]
        self._folders = [ImageFolder(root / name, links=True) for name in names or [subtype]]
        self.root, self.missing = root / subtype, set[Path]()

    def find(self, name: str) -> Path:
        """The path of an image by its name of 2014."""
        for folder in self._folders:
            for spelling in dict.fromkeys((name, name.rsplit("_", 1)[-1])):
                path = folder.find(spelling)
                if path not in folder.missing:
                    return path
        self.missing.add(self.root / name)
        return self.root / name
