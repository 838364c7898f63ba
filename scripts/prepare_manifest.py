"""List the shards of a caption set ahead of a run: where every pair lies, and what cannot be used."""

import argparse
from pathlib import Path

from pretrain.data.manifest import TarCaptions
from pretrain.data.source import open_captions
from vlm.errors import UserError, run_command

EXAMPLES = """examples:
  python scripts/prepare_manifest.py /data/cc12m
  python scripts/prepare_manifest.py '/data/datacomp/*.tar' --sha256     also record a checksum of every shard
  python scripts/prepare_manifest.py '/data/datacomp/*.tar' --verify     read all shards and compare
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", help="folder or glob of WebDataset tars (other formats need no manifest)")
    parser.add_argument("--image-column", help="suffix of the image members (jpg, jpeg, png, webp)")
    parser.add_argument("--caption-column", help="suffix of the caption members (txt)")
    parser.add_argument("--cache", type=Path, help="folder of the manifests (~/.cache/levlm/manifests)")
    parser.add_argument("--sha256", action="store_true", help="record the SHA-256 of every shard")
    parser.add_argument("--verify", action="store_true", help="compare the shards with the recorded SHA-256")
    return parser.parse_args()


def main() -> None:
    given = parse()
    data = open_captions(given.data, given.image_column, given.caption_column, given.cache, given.sha256)
    if not isinstance(data, TarCaptions):
        print(f"{given.data}: {len(data):,} rows; this format needs no manifest")
        return
    short = [(name, shard["damage"]) for name, shard in zip(data.names, data.record["shards"]) if shard["damage"]]
    print(f"{given.data}: {len(data):,} pairs in {len(data.counts):,} shards, fingerprint {data.fingerprint[:16]}")
    for reason, count in data.reasons().most_common():
        print(f"left out: {count:,} x {reason}")
    for name, damage in short:
        print(f"short shard: {name}: {damage}")
    if given.verify:
        changed = data.verify()
        if changed:
            raise UserError(f"{len(changed)} shards differ from their SHA-256: {', '.join(changed[:10])}")
        print("every shard equals its SHA-256")


if __name__ == "__main__":
    run_command(main)
