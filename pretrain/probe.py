"""The command `python pretrain/probe.py`: what a saved encoder has learnt."""

import argparse
from pathlib import Path

from pretrain.captions import open_captions
from pretrain.pairs import clean_caption
from pretrain.probes import object_probe, retrieval
from vlm.encoder import load_encoder
from vlm.errors import UserError, run_command
from vlm.images import decode
from vlm.logs import write_json

EXAMPLES = """examples:
  python pretrain/probe.py runs/pretrain/encoder --task objects --data runs/world/gqa
  python pretrain/probe.py runs/pretrain/encoder --task retrieval --data 'runs/world/captions/testdev-*.tar'

tasks:
  objects     which objects does an image show? A linear probe on the frozen CLS, one AUC an object name; --data is a
              GQA folder with train and val scene graphs
  retrieval   does an image find its own caption among --pool others? --data is captions that were not trained on
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pretrain/probe.py",
        description="Measure a frozen LeVLJEPA encoder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("encoder", help="RUN/encoder or a released checkpoint's folder")
    parser.add_argument("--task", required=True, choices=["objects", "retrieval"])
    parser.add_argument("--data", required=True, help="a GQA folder (objects) or captions (retrieval)")
    parser.add_argument("--pool", type=int, default=256, help="captions to choose from (retrieval; default 256)")
    parser.add_argument("--json", help="also write the numbers to this file")
    return parser.parse_args()


def caption_pool(source: str, count: int) -> tuple[list, list[str]]:
    """The first `count` images and captions of a data set."""
    data = open_captions(source)
    if len(data) < count:
        raise UserError(f"{source} holds {len(data)} pairs: give --pool {len(data)} or less")
    pairs = [data.read(number) for number in range(count)]
    return [decode(image) for image, _ in pairs], [clean_caption(caption) for _, caption in pairs]


def main() -> None:
    args = parse()
    encoder = load_encoder(args.encoder)
    if args.task == "objects":
        numbers = object_probe(encoder, Path(args.data))
        names = ", ".join(f"{name} {area:.3f}" for name, area in numbers["per_name"].items())
        print(f"objects: mean AUC {numbers['auc']:.3f} ({names})")
    else:
        numbers = retrieval(encoder, *caption_pool(args.data, args.pool))
        print(
            f"retrieval among {numbers['pool']}: R@1 {numbers['r_at_1']:.3f}, R@5 {numbers['r_at_5']:.3f}; effective "
            f"rank of {encoder.config.embed_dim}: images {numbers['rank_image']:.1f}, "
            f"captions {numbers['rank_text']:.1f}"
        )
    if args.json:
        write_json(args.json, numbers)


if __name__ == "__main__":
    run_command(main)
