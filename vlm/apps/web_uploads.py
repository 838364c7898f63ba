"""The folder of uploaded pictures: none is kept for long, and all together take a bounded part of the disk."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

KEPT_SECONDS = 3600  # since a picture was last asked about
KEPT_FILES = 300  # a picture has three: as it came, as the model sees it, its patch tokens
KEPT_PICTURES = 50  # of the largest size, by their bytes
LOOKED_AFTER = 60  # seconds from one look to the next


class Uploads:
    """Deletes the pictures in `folder` that are old or too many; what lies there at first, the examples, stays.

    largest: bytes that one may have. known: Gradio's sets of paths, from which it never takes what others delete.
    """

    def __init__(self, folder: Path, largest: int, known: Iterable[set[str]] = ()):
        self.folder, self.most_bytes, self.known = folder.resolve(), KEPT_PICTURES * largest, known
        self._examples = {path for path, _ in self._files()}

    def trim(self) -> None:
        """Keep the newest `KEPT_FILES` files of at most `most_bytes` that are younger than `KEPT_SECONDS`."""
        oldest, total = time.time() - KEPT_SECONDS, 0
        files = [(path, found) for path, found in self._files() if path not in self._examples]
        for number, (path, found) in enumerate(sorted(files, key=lambda file: file[1].st_mtime, reverse=True)):
            total += found.st_size
            if number >= KEPT_FILES or total > self.most_bytes or found.st_mtime < oldest:
                self._delete(path)

    def look_after(self, closing: threading.Event) -> None:
        """Trim now and then until `closing` is set."""
        while not closing.wait(LOOKED_AFTER):
            self.trim()

    def _files(self) -> list[tuple[str, os.stat_result]]:
        files = []
        for folder, _, names in os.walk(self.folder):
            for path in (os.path.join(folder, name) for name in names):
                try:
                    files.append((path, os.stat(path)))
                except FileNotFoundError:  # deleted, or given its name, in between
                    continue
        return files

    def _delete(self, path: str) -> None:
        try:
            os.remove(path)
            os.rmdir(os.path.dirname(path))  # Gradio makes one for each file
        except OSError:  # it is gone, or its folder holds another
            pass
        for paths in self.known:
            paths.discard(path)
