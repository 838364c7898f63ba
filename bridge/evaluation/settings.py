"""What bridge/evaluate.py is asked to do: its command line, the folders and benchmarks that it names."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bridge.config import WORLD
from bridge.evaluation.benchmarks import Benchmark, caption_of, read_captions, read_gqa, read_pope, read_vqav2
from vlm.errors import UserError

EXAMPLES = """examples:
  python bridge/evaluate.py runs/bridge --gqa world/gqa --vqav2 world/vqav2 --pope world/pope
  python bridge/evaluate.py runs/bridge/vlm --gqa gqa --gqa-split testdev --baseline random=runs/random/eval
  python bridge/evaluate.py runs/bridge --vqav2 vqav2 --vqav2-split test-dev2015      submission file for EvalAI
  python bridge/evaluate.py runs/bridge --pope world/pope --oracle world/captions.json --out runs/bridge/oracle"""


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bridge/evaluate.py",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("vlm", metavar="RUN/vlm", help="folder saved by bridge/train.py, or its RUN")
    add("--gqa", metavar="DIR", help="folder with {split}_balanced_questions.json and images/")
    add("--vqav2", metavar="DIR", help="folder with the official question and annotation files and val2014/")
    add("--pope", metavar="DIR", help="folder with coco_pope_{random,popular,adversarial}.json and val2014/")
    add("--gqa-split", default="testdev", help="train, val, testdev (balanced), or val_all and the like")
    add("--vqav2-split", help="val2014 (default), test-dev2015, ...; without annotations: submission file only")
    add("--out", metavar="DIR", help="default RUN/eval")
    add("--limit-images", type=positive, metavar="N", help="only the questions about each benchmark's first N images")
    add("--max-new-tokens", type=positive, default=16, metavar="N")
    add("--mode", choices=("official", "lmms"), default="official", help="official scores or lmms-eval's")
    add("--blind", action="store_true", help="control: the bare question, without any image slot")
    add("--oracle", metavar="FILE", help="captions.json: the true caption as text in the image's place")
    add("--shuffle-images", action="store_true", help="control: every question is shown another question's image")
    add("--baseline", action="append", default=[], metavar="NAME=DIR", help="another run's eval folder to compare with")
    add("--batch-questions", type=positive, default=64, metavar="N", help="questions decoded together")
    add("--precision", choices=("fp32", "bf16"), help="[bf16 where the device is fast at it; fp32: ties cannot flip]")
    add("--load-in", choices=("4bit", "8bit"), help="bitsandbytes quantisation of the LLM")
    add("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    add("--overwrite", action="store_true", help="discard the asked benchmarks' predictions in OUT, start anew")
    return parser


def run_folders(args: argparse.Namespace) -> tuple[Path, Path]:
    """The VLM's folder, given itself or as RUN, and where results go: RUN/eval by default."""
    given = Path(args.vlm)
    folder = given / "vlm" if (given / "vlm" / "config.json").is_file() else given
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{given} is no saved VLM: it or its folder vlm/ needs a config.json, as bridge/train.py saves it"
        )
    return folder, Path(args.out) if args.out else folder.parent / "eval"


def chosen_benchmarks(args: argparse.Namespace) -> list[Benchmark]:
    gqa, vqav2, pope, vqav2_split = args.gqa, args.vqav2, args.pope, args.vqav2_split or "val2014"
    if not (gqa or vqav2 or pope):
        if not WORLD.is_dir():
            raise UserError(
                f"no benchmark given and the embedded world {WORLD} does not exist: give --gqa DIR, --vqav2 DIR or "
                f"--pope DIR, or run `python scripts/make_world.py {WORLD}`"
            )
        print(f"no benchmark given: the held-out scenes of the embedded world in {WORLD}", file=sys.stderr)
        gqa, vqav2, pope = WORLD / "gqa", WORLD / "vqav2", WORLD / "pope"
        vqav2_split = args.vqav2_split or "test-dev2015"
    readers: list[Callable[[], Benchmark]] = []
    if gqa:
        readers.append(lambda: read_gqa(gqa, args.gqa_split))
    if vqav2:
        readers.append(lambda: read_vqav2(vqav2, vqav2_split))
    if pope:
        readers.append(lambda: read_pope(pope))
    return [read().first_images(args.limit_images) for read in readers]


def captions_of(file: str | None, benchmarks: list[Benchmark]) -> Callable[[Path], str] | None:
    """The oracle's image -> caption, checked for every image before any work starts."""
    if file is None:
        return None
    captions, root = read_captions(file), Path(file).parent
    images = {example.image for benchmark in benchmarks for example in benchmark.examples}
    return {image: caption_of(image, captions, root) for image in images}.__getitem__


def what_it_sees(args: argparse.Namespace) -> str:
    """What the LLM is given beside the question."""
    chosen = [args.blind, args.oracle is not None, args.shuffle_images]
    if sum(chosen) > 1:
        raise UserError("--blind, --oracle and --shuffle-images exclude each other; give one of them")
    return (
        "nothing" if args.blind else "captions" if args.oracle else "other images" if args.shuffle_images else "images"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; give cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device here; give cpu")
    return device
