"""What the manifest says of a caption set's shards."""

from pretrain.data.manifest import TarCaptions
from pretrain.data.mixing import MixedCaptions
from pretrain.data.pairs import Captions
from vlm.errors import UserError


def list_shards(source: str, data: Captions, verify: bool, sha256: bool = False) -> None:
    """Print how many pairs are listed and what cannot be used; compare the shards with their SHA-256 if asked.

    sha256: whether `data` was opened to record it.
    Raises: UserError if a shard differs from its SHA-256, or there are no shards to compare or to record it of.
    """
    if isinstance(data, MixedCaptions):
        for part in data.sources:
            list_shards(part.path, part.data, verify, sha256)
        return
    if not isinstance(data, TarCaptions):
        if verify or sha256:
            flag = "--verify" if verify else "--sha256"
            raise UserError(f"{flag}: {source} is no set of tars, and only their SHA-256 is kept: leave {flag} away")
        print(f"{source}: {len(data):,} rows; this format needs no manifest")
        return
    # Shards that are compared may have changed: a fingerprint would be of others than those that were listed.
    fingerprint = "" if verify else f", fingerprint {data.fingerprint[:16]}"
    print(f"{source}: {len(data):,} pairs in {len(data.counts):,} shards{fingerprint}")
    for reason, count in data.reasons().most_common():
        print(f"left out: {count:,} x {reason}")
    for name, shard in zip(data.names, data.record["shards"]):
        if shard["damage"]:
            print(f"short shard: {name}: {shard['damage']}")
    if verify:
        changed = data.verify()
        if changed:
            shards = "1 shard differs from its" if len(changed) == 1 else f"{len(changed)} shards differ from their"
            raise UserError(f"{shards} SHA-256: {', '.join(changed[:10])}; fetch what differs again")
        print("every shard equals its SHA-256")
