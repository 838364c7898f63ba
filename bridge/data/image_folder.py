"""The image files that questions name."""

import os
from pathlib import Path

from bridge.data.example import Example
from vlm.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """Image files below `root`, each folder listed once: a million `stat` calls on a network disk take minutes.

    `missing` holds the paths that were looked for in vain. A folder that is not there is a UserError.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise UserError(
                f"the image folder {root} is missing: the images belong there, see the data set's download page"
            )
        self.root = root
        self.missing: set[Path] = set()
        self._listings: dict[Path, frozenset[str]] = {}
        self._found: dict[str, Path] = {}

    def find(self, name: str) -> Path:
        """The path of `name`, or of its twin with another image suffix; if there is neither it goes to `missing`."""
        if name not in self._found:
            path = self.root / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"image name {name!r} leads out of {self.root}: names must lie inside the image folder")
            folder = path.parent
            if folder not in self._listings:
                self._listings[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
            twins = [path.name, *(path.stem + suffix for suffix in SUFFIXES)]
            present = [path.with_name(twin) for twin in twins if twin in self._listings[folder]]
            if not present:
                self.missing.add(path)
            self._found[name] = present[0] if present else path
        return self._found[name]


def checked(examples: list[Example], images: ImageFolder, file: Path, allow_missing: bool) -> list[Example]:
    """Return `examples` as they are. Raises: UserError if there are none, or images are missing and may not be."""
    if not examples:
        raise UserError(f"{file} holds no question about an image")
    if images.missing and not allow_missing:
        total = len({example.image for example in examples})
        raise UserError(
            f"{len(images.missing)} of {total} images that {file} asks about are missing, the first: "
            f"{min(images.missing)}; complete the folder"
        )
    return examples
