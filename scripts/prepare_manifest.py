"""List the shards of a caption set ahead of a run: where every pair lies, and what cannot be used."""

from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError, run_command
from vlm.run.settings import parse, setting

EXAMPLES = """examples:
  python scripts/prepare_manifest.py /data/cc12m
  python scripts/prepare_manifest.py '/data/datacomp/*.tar' --sha256     # also record a checksum of every shard
  python scripts/prepare_manifest.py 's3://bucket/datacomp/{0000..1023}.tar'     # reads headers, not contents
  python scripts/prepare_manifest.py '/data/datacomp/*.tar' --verify     # later: read all shards and compare
"""


@dataclass(frozen=True)
class ManifestSettings:
    data: str = setting(help="folder, glob, brace pattern or URL of WebDataset tars", positional=True)
    image_column: str | None = setting(None, help="suffix of the image members", default_text="jpg, jpeg, png or webp")
    caption_column: str | None = setting(None, help="suffix of the caption members", default_text="txt")
    cache: str | None = setting(None, help="folder of the manifests", default_text="~/.cache/levlm/manifests")
    sha256: bool = setting(False, help="record the SHA-256 of every shard")
    verify: bool = setting(False, help="compare the shards with the SHA-256 recorded before; lists nothing anew")


def main() -> None:
    settings = parse(ManifestSettings, prog="scripts/prepare_manifest.py", about=__doc__, examples=EXAMPLES)
    if settings.verify and settings.sha256:
        raise UserError("--verify compares with what --sha256 recorded before: give one of the two")
    from checks.shards import list_shards  # after parsing: --help does not wait for torch

    from pretrain.data.source import open_captions

    cache = Path(settings.cache) if settings.cache else None
    columns = (settings.image_column, settings.caption_column)
    data = open_captions(settings.data, *columns, cache, settings.sha256, as_listed=settings.verify)
    list_shards(settings.data, data, settings.verify, settings.sha256)


if __name__ == "__main__":
    run_command(main)
