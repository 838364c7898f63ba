"""The settings of a bridge run, and how the command line fills them."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vlm.errors import UserError
from vlm.run.settings import parse, resume_setting, setting

WORLD = Path("runs/world")
ENCODER = Path("runs/pretrain/encoder")
WORLD_STEPS = 300
SETS = ("gqa", "vqav2", "llava")  # the order of the data sets, wherever there are several
PRECISIONS = ("fp32", "bf16")
LOAD_IN = ("4bit", "8bit")
ABOUT = "Train LLaVA's connector between a frozen encoder and a frozen LLM; writes RUN/vlm, a stock LLaVA."

EXAMPLES = """\
examples:
  python bridge/train.py --llm smollm2                        # the embedded world and runs/pretrain/encoder
  python bridge/train.py --llm qwen --encoder runs/pretrain/encoder --gqa data/gqa --vqav2 data/vqav2 --out runs/qwen
  python bridge/train.py --llm smollm2 --encoder random:runs/pretrain/encoder --out runs/random   # baselines
  python bridge/train.py --llm smollm2 --encoder blind --out runs/blind
  python bridge/train.py --llm smollm2 --encoder timm:vit_base_patch16_224.dino --out runs/dino
  python bridge/train.py --llm qwen --encoder hf:openai/clip-vit-large-patch14-336 --gqa data/gqa --out runs/clip
  python bridge/train.py --llm qwen --encoder hf:facebook/dinov2-base --image-size 336 --gqa data/gqa --out runs/dinov2
  python bridge/train.py --llm smollm2 --encoder timm:vit_tiny_patch16_224@vit.safetensors --out runs/vit
  python bridge/train.py --init runs/bridge/vlm --lora 8 --out runs/lora                          # second stage
  accelerate launch --num_processes 4 bridge/train.py --llm llama --gqa data/gqa --out runs/llama
"""

# One heading of `--help` each. What names files is compared by its content when a run goes on.
_part = partial(setting, None, group="parts", by_content=True)
_files = partial(setting, None, group="data", by_content=True)
_data = partial(setting, group="data")
_training = partial(setting, group="optimization")
_speed = partial(setting, group="memory and speed")


@dataclass(frozen=True)
class BridgeConfig:
    """One run. Paths are strings as given."""

    llm: str | None = _part(help="a preset, a folder, a hub id or a .gguf file", metavar="smollm2|llama|qwen|PATH")
    encoder: str | None = _part(
        help="a LeVLJEPA folder or hub id; a CLIP, SigLIP, DINOv2, DINOv3 or ViT folder or hub id behind hf:; a timm "
        "ViT, with weights from the hub or a safetensors file; each with random weights; or one without sight",
        metavar="DIR|HUB_ID|hf:NAME|timm:NAME[@SIZE][@FILE]|random:...|blind",
        default_text=str(ENCODER),
    )
    normalisation: str | None = _part(
        help="pixel statistics in place of the encoder's own", choices=("clip", "imagenet")
    )
    image_size: int | None = setting(
        None, group="parts", help="side of the images; positions are interpolated", metavar="PIXELS", least=1,
        default_text="the encoder's own",
    )  # fmt: skip
    feature_layer: int | None = setting(
        None, group="parts", help="hidden state of the ViT that LLaVA reads, from the end if negative", metavar="N",
        default_text="CLIP -2, others -1",
    )  # fmt: skip
    heads: int | None = setting(
        None, group="parts", help="attention heads of a LeVLJEPA encoder whose config.json does not say", metavar="N",
        least=1, default_text="64 wide each",
    )  # fmt: skip
    init: str | None = _part(
        help="go on from a trained VLM: LLM, encoder and connector come from there", metavar="RUN/vlm"
    )

    gqa: str | None = _files(help="official GQA folder", metavar="DIR")
    gqa_split: str = _data("train", help="train (balanced), train_all, ...")
    vqav2: str | None = _files(help="official VQAv2 folder", metavar="DIR")
    vqav2_split: str = _data("train2014", help="train2014, val2014, ...")
    llava: str | None = _files(help="LLaVA instruction JSON; each pair of turns is one question", metavar="FILE")
    llava_images: str | None = _files(help="folder that its image names start from", metavar="DIR")
    weights: str | None = _data(
        None,
        help="proportions of the questions in each pass, as gqa=3,vqav2=1",
        metavar="SET=W,...",
        default_text="as many as each set has",
    )
    vqav2_answers: str = _data(
        "common",
        help="learn the most common of the ten answers (multiple_choice_answer), or one drawn by votes in each pass",
        choices=("common", "votes"),
    )

    out: str = setting("runs/bridge", help="the run's folder", metavar="RUN", free=True)
    seed: int = setting(0, help="seed of the connector's first weights, LoRA's, and the data order", least=0)
    resume: str = resume_setting()
    save_every: int = setting(100, help="steps between two checkpoints", metavar="STEPS", least=1, free=True)

    steps: int | None = _training(
        None, help="optimizer steps", least=1, default_text=f"one pass; {WORLD_STEPS} on the embedded world"
    )
    batch_questions: int = _training(56, help="questions a step, on all processes", least=1)
    row_tokens: int = _training(1024, help="longest packed sequence", least=1)
    micro_tokens: int = _training(8192, help="tokens per forward pass; less = less memory", least=1, free=True)
    lr: float = _training(1e-3, help="peak learning rate", above=0)
    warmup: float = _training(0.05, help="share of the steps that rise to it", least=0, most=1)
    weight_decay: float = _training(0.0, help="weight decay of AdamW", least=0)
    clip: float = _training(1.0, help="largest gradient norm; 0: no clipping", least=0)
    lora: int = _training(
        0,
        help="also train rank-R LoRA on the LLM's q, k, v, o; smollm2's prompts then need no worked examples (0: off)",
        metavar="R",
        least=0,
    )

    load_in: str | None = _speed(None, help="bitsandbytes quantisation of the frozen LLM", choices=LOAD_IN)
    precision: str | None = _speed(
        None, help="precision of the frozen parts", choices=PRECISIONS, default_text="bf16 if the device is fast at it"
    )
    gradient_checkpointing: bool = _speed(False, help="less memory, about a third more time", free=True)
    cache: bool = _speed(True, help="run the vision tower in every step", free=True)
    features: str | None = _speed(
        None, help="feature cache, to share among runs", metavar="DIR", free=True, default_text="RUN/features"
    )

    def shares(self) -> list[float] | None:
        """The part of an epoch that each given data set has, as [0.75, 0.25]; None: every question once."""
        if self.weights is None:
            return None
        given = [name for name in SETS if getattr(self, name)]
        pairs = [part.partition("=") for part in self.weights.split(",")]  # "gqa=3,vqav2=1"
        try:
            weights = {name: float(value) for name, _, value in pairs}
        except ValueError:
            weights = {}
        total = sum(weights.values())
        each_once = sorted(name for name, _, _ in pairs) == sorted(given)
        if not (each_once and 0 < total < math.inf and min(weights.values()) >= 0):
            needed = ",".join(f"{name}=W" for name in given)
            raise UserError(f"--weights {self.weights}: give {needed}, numbers of 0 or more for the data sets named")
        return [weights[name] / total for name in given]


def parse_config(arguments: Sequence[str] | None = None) -> BridgeConfig:
    """The command line -> checked config, with the embedded world filled in if no data are named."""
    config = parse(BridgeConfig, arguments, prog="python bridge/train.py", about=ABOUT, examples=EXAMPLES)
    if (config.llm is None) == (config.init is None):
        raise UserError("give --llm smollm2|llama|qwen|PATH, or --init RUN/vlm to go on from a trained VLM")
    of_encoder = ("encoder", "normalisation", "image_size", "feature_layer", "heads")
    if config.init is not None and (given := [name for name in of_encoder if getattr(config, name) is not None]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--init brings its own encoder: leave out {flags}")
    if (config.llava is None) != (config.llava_images is None):
        raise UserError("--llava FILE and --llava-images DIR belong together")
    if not (config.gqa or config.vqav2 or config.llava):
        if not WORLD.is_dir():
            raise UserError(
                f"no data given and the embedded world {WORLD} does not exist: run `python scripts/make_world.py "
                f"{WORLD}`, or give --gqa DIR and --vqav2 DIR"
            )
        if os.environ.get("RANK", "0") == "0":
            print(f"no data given: the embedded world in {WORLD}", file=sys.stderr)
        steps = config.steps or WORLD_STEPS
        config = replace(config, gqa=str(WORLD / "gqa"), vqav2=str(WORLD / "vqav2"), steps=steps)
    config.shares()  # to refuse bad weights before any work
    if config.encoder is None and config.init is None:
        if not ENCODER.is_dir():
            raise UserError(f"{ENCODER} does not exist: run `deepspeed pretrain/run.py` first, or give --encoder DIR")
        config = replace(config, encoder=str(ENCODER))
    return config
