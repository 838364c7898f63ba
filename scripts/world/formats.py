"""The files that every made data set has: caption tars, and VQAv2's pair. Equal content gives equal bytes."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_shard(path: Path, suffix: str, samples: Iterable[tuple[int, bytes, str]]) -> None:
    """A tar of `key.suffix` + `key.txt`, of keys, pictures and captions."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, picture, caption in samples:
            for kind, data in ((suffix, picture), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{key:09d}.{kind}")  # its other fields are constants
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_vqav2(folder: Path, split: str, head: dict[str, Any], questions: list[dict], annotations: list[dict]) -> None:
    """The records in the official files of a split, such as train2014. head: what both files say of the set."""
    asked = {**head, "task_type": "Open-Ended", "questions": questions}
    dump(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", asked)
    dump(folder / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": annotations})


def dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
