"""What a bridge run is made of: a flat frozen dataclass and the command line that fills it."""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError

WORLD = Path("runs/world")
ENCODER = Path("runs/pretrain/encoder")
WORLD_STEPS = 300
SETS = ("gqa", "vqav2", "llava")  # the order of the data sets, wherever there are several

EXAMPLES = """\
examples:
  python bridge/train.py --llm smollm2                        # the embedded world and runs/pretrain/encoder
  python bridge/train.py --llm qwen --encoder runs/pretrain/encoder --gqa data/gqa --vqav2 data/vqav2 --out runs/qwen
  python bridge/train.py --llm smollm2 --encoder random:runs/pretrain/encoder --out runs/random   # baselines
  python bridge/train.py --llm smollm2 --encoder blind --out runs/blind
  python bridge/train.py --llm smollm2 --encoder timm:vit_base_patch16_224.dino --out runs/dino
  python bridge/train.py --llm smollm2 --encoder timm:vit_tiny_patch16_224@vit.safetensors --out runs/vit
  python bridge/train.py --init runs/bridge/vlm --lora 8 --out runs/lora                          # second stage
  accelerate launch --num_processes 4 bridge/train.py --llm llama --gqa data/gqa --out runs/llama
"""


@dataclass(frozen=True)
class BridgeConfig:
    """One run. Paths are strings as given; `steps` None means one pass over the questions."""

    out: str
    llm: str | None
    encoder: str | None
    normalisation: str | None = None
    init: str | None = None
    gqa: str | None = None
    gqa_split: str = "train"
    vqav2: str | None = None
    vqav2_split: str = "train2014"
    llava: str | None = None
    llava_images: str | None = None
    weights: str | None = None
    vqav2_answers: str = "common"
    steps: int | None = None
    batch_questions: int = 56
    row_tokens: int = 1024
    micro_tokens: int = 8192
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    lora: int = 0
    load_in: str | None = None
    precision: str | None = None
    gradient_checkpointing: bool = False
    cache: bool = True
    features: str | None = None
    seed: int = 0
    resume: str = "auto"
    save_every: int = 100

    def shares(self) -> list[float] | None:
        """What part of a pass each given data set has, in the order of `SETS`; None: every question once a pass."""
        if self.weights is None:
            return None
        given = [name for name in SETS if getattr(self, name)]
        try:
            pairs = [(name, float(value)) for name, value in (part.split("=") for part in self.weights.split(","))]
        except ValueError:
            pairs = []
        weights = dict(pairs)
        total = sum(weights.values())
        named_once = sorted(name for name, _ in pairs) == sorted(given)
        if not named_once or not 0 < total < math.inf or min(weights.values()) < 0:
            needed = ",".join(f"{name}=W" for name in given)
            raise UserError(f"--weights {self.weights}: give {needed}, numbers of 0 or more for the data sets named")
        return [weights[name] / total for name in given]

    def trajectory(self) -> dict:
        """The fields that decide what is trained; a run resumes only where all of them are as they were.

        How the work is cut up or stored (micro-batches, cache, saving) is free to change.
        """
        free = {"out", "micro_tokens", "gradient_checkpointing", "cache", "features", "resume", "save_every"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in free}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bridge/train.py",
        description="Train LLaVA's connector between a frozen encoder and a frozen LLM; writes RUN/vlm, a stock LLaVA.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    _add_parts(add)
    _add_data(add)
    add("--out", metavar="RUN", default="runs/bridge", help="[%(default)s]")
    add("--steps", type=positive, help=f"optimizer steps [one pass; {WORLD_STEPS} on the embedded world]")
    add("--batch-questions", type=positive, default=56, help="questions a step, on all processes [%(default)s]")
    add("--row-tokens", type=positive, default=1024, help="longest packed sequence [%(default)s]")
    add("--micro-tokens", type=positive, default=8192, help="tokens per forward pass; less = less memory [%(default)s]")
    add("--lr", type=_above_zero, default=1e-3, help="peak learning rate [%(default)s]")
    add("--warmup", type=_fraction, default=0.05, help="share of the steps [%(default)s]")
    add("--weight-decay", type=_not_negative, default=0.0, help="[%(default)s]")
    add("--clip", type=_not_negative, default=1.0, help="largest gradient norm; 0: no clipping [%(default)s]")
    add(
        "--lora",
        type=int,
        default=0,
        metavar="R",
        help="also train rank-R LoRA on the LLM's q, k, v, o; smollm2's prompts then need no worked examples [off]",
    )
    add("--load-in", choices=("4bit", "8bit"), help="bitsandbytes quantisation of the frozen LLM")
    add("--precision", choices=("fp32", "bf16"), help="of the frozen parts [bf16 where the device is fast at it]")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third more time")
    add("--no-cache", dest="cache", action="store_false", help="run the vision tower in every step")
    add("--features", metavar="DIR", help="feature cache, to share between runs of one encoder [RUN/features]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--resume", choices=("auto", "required", "never"), default="auto", help="[%(default)s]")
    add("--save-every", type=positive, default=100, metavar="STEPS", help="[%(default)s]")
    return parser


def _add_parts(add: Callable) -> None:
    add("--llm", metavar="smollm2|llama|qwen|PATH", help="a preset, a folder, a hub id or a .gguf file")
    add(
        "--encoder",
        metavar="DIR|timm:NAME[@FILE]|random:...|blind",
        help="an encoder folder, or a plain timm ViT by name with weights from the hub or a safetensors file; either "
        f"with random weights; or one without sight [{ENCODER}]",
    )
    add("--normalisation", choices=("clip", "imagenet"), help="pixel statistics in place of the encoder's own")
    add("--init", metavar="RUN/vlm", help="go on from a trained VLM: LLM, encoder and connector come from there")


def _add_data(add: Callable) -> None:
    add("--gqa", metavar="DIR", help="official GQA folder")
    add("--gqa-split", default="train", help="train (balanced), train_all, ... [%(default)s]")
    add("--vqav2", metavar="DIR", help="official VQAv2 folder")
    add("--vqav2-split", default="train2014", help="[%(default)s]")
    add("--llava", metavar="FILE", help="LLaVA instruction JSON; each pair of turns is one question")
    add("--llava-images", metavar="DIR", help="folder that its image names start from")
    add(
        "--weights",
        metavar="SET=W,...",
        help="proportions of the questions in each pass, as gqa=3,vqav2=1 [as many as each set has]",
    )
    add(
        "--vqav2-answers",
        choices=("common", "votes"),
        default="common",
        help="learn the most common of the ten answers (multiple_choice_answer), or one drawn by votes in each pass "
        "[%(default)s]",
    )


def parse_config(arguments: Sequence[str] | None = None) -> BridgeConfig:
    """The command line -> config, with the embedded world filled in where no data are named."""
    config = BridgeConfig(**vars(make_parser().parse_args(arguments)))
    if (config.llm is None) == (config.init is None):
        raise UserError("give --llm smollm2|llama|qwen|PATH, or --init RUN/vlm to go on from a trained VLM")
    if config.init is not None and (config.encoder or config.normalisation):
        raise UserError("--init brings its own encoder: leave out --encoder and --normalisation")
    if (config.llava is None) != (config.llava_images is None):
        raise UserError("--llava FILE and --llava-images DIR belong together")
    if config.lora < 0 or config.seed < 0:
        raise UserError("--lora and --seed must be 0 or more")
    if not (config.gqa or config.vqav2 or config.llava):
        config = _embedded_world(config)
    config.shares()  # judged before any work
    if config.encoder is None and config.init is None:
        if not ENCODER.is_dir():
            raise UserError(f"{ENCODER} does not exist: run `deepspeed pretrain/run.py` first, or give --encoder DIR")
        config = dataclasses.replace(config, encoder=str(ENCODER))
    return config


def _embedded_world(config: BridgeConfig) -> BridgeConfig:
    if not WORLD.is_dir():
        raise UserError(
            f"no data given and the embedded world {WORLD} does not exist: run `python scripts/make_world.py {WORLD}`, "
            "or give --gqa DIR and --vqav2 DIR"
        )
    if os.environ.get("RANK", "0") == "0":
        print(f"no data given: the embedded world in {WORLD}", file=sys.stderr)
    return dataclasses.replace(
        config, gqa=str(WORLD / "gqa"), vqav2=str(WORLD / "vqav2"), steps=config.steps or WORLD_STEPS
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def _above_zero(text: str) -> float:
    value = _not_negative(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
