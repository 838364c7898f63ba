"""The settings of a bridge run, and how the command line fills them."""

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vlm.errors import UserError
from vlm.llms.presets import PRESETS
from vlm.run.settings import allow_change_setting, parse, resume_setting, seed_setting, setting, timeout_setting
from vlm.run.trackers import TRACKERS

RUNS = Path("runs")
WORLD = RUNS / "world"
ENCODER = RUNS / "pretrain/encoder"
WORLD_STEPS = 300
# The default batch. 1,280 questions of GQA and VQAv2 are 143 images: between the 128 conversations of an image with
# which LLaVA-1.5 is tuned and the 256 images with which its connector is trained at this peak learning rate (1e-3). On
# each of 8 GPUs they fill one micro-batch of 8,192 tokens. Smaller sets still get a thousand updates a pass.
BATCH, PASS_STEPS = (56, 1280), 1000  # the least and the most questions; steps of a pass in between
REUSED = 1.5  # times that an image must be shown on average for its features to be kept
SETS = ("gqa", "vqav2", "conversations")  # the order of the data sets, wherever there are several
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
  python bridge/train.py --init runs/bridge-smollm2/vlm --lora 8 --out runs/lora                  # second stage
  accelerate launch --num_processes 4 bridge/train.py --llm llama --gqa data/gqa --out runs/llama
  python bridge/train.py --llm qwen --plan                    # GQA + VQAv2 on 1 and 8 GPUs: hours, memory, disk
"""

# One heading of `--help` each. What names files is compared by its content when a run goes on.
_part = partial(setting, None, group="parts", by_content=True)
_files = partial(setting, None, group="data", by_content=True)
_data = partial(setting, group="data")
_training = partial(setting, group="optimization")
_speed = partial(setting, group="memory and speed")
_price = partial(setting, group="price", free=True)


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

    gqa: str | None = _files(help="official GQA folder, or lmms-lab/GQA as a folder or hub id", metavar="DIR|HUB_ID")
    gqa_split: str = _data("train", help="train (balanced), train_all, train+val, ...")
    vqav2: str | None = _files(
        help="official VQAv2 folder, or lmms-lab/VQAv2, which has no train2014", metavar="DIR|HUB_ID"
    )
    vqav2_split: str = _data("train2014", help="train2014, val2014, train2014+val2014, ...")
    conversations: str | None = _files(
        help="LLaVA's JSON or JSON lines, or parquet with images and texts (the_cauldron, FineVision)",
        metavar="FILE|DIR|HUB_ID",
        also=("--llava",),
    )
    conversation_images: str | None = _files(
        help="folder that image names of --conversations start from",
        metavar="DIR",
        also=("--llava-images",),
        default_text="the file's own folder",
    )
    weights: str | None = _data(
        None,
        help="proportions of the questions in each pass, as gqa=3,vqav2=1; a set too small for its part is repeated",
        metavar="SET=W,...",
        default_text="as many as each set has",
    )
    bad_ratio: float = _data(
        0.05,
        help="largest share of questions that may be unusable; they are listed in RUN/quarantine.jsonl",
        least=0,
        most=1,
        free=True,
    )
    vqav2_answers: str = _data(
        "common",
        help="learn the most common of the ten answers (multiple_choice_answer), or one drawn by votes in each pass",
        choices=("common", "votes"),
    )

    out: str = setting(
        "",
        help="the run's folder",
        metavar="RUN",
        free=True,
        default_text="runs/bridge-LLM; of --init RUN/vlm: runs/RUN-continued",
    )
    seed: int = seed_setting(help="seed of the connector's first weights, LoRA's, and the data order")
    resume: str = resume_setting()
    allow_change: tuple[str, ...] = allow_change_setting()
    timeout: float = timeout_setting()
    save_every: int = setting(100, help="steps between two checkpoints", metavar="STEPS", least=1, free=True)
    tracker: str = setting(
        "auto", help="auto: RUN/tensorboard if TensorBoard is installed", choices=TRACKERS, free=True
    )
    log_every: int = setting(
        1, help="steps between two writings of metrics.jsonl and tracker", metavar="STEPS", least=1, free=True
    )
    show_every: int = setting(
        0,
        help="steps between two looks at held-out questions: their answers in the tracker and in RUN/held_out.jsonl",
        metavar="STEPS",
        least=0,
        free=True,
        default_text="0: none",
    )

    steps: int | None = _training(
        None, help="optimizer steps", least=1, default_text=f"one pass; {WORLD_STEPS} on the embedded world"
    )
    batch_questions: int | None = _training(
        None,
        help="questions a step, on all processes together",
        least=1,
        default_text=f"a pass of {PASS_STEPS} steps: {BATCH[0]} at least, {BATCH[1]} at most; {BATCH[0]} on the "
        "embedded world",
    )
    row_tokens: int = _training(1024, help="longest packed sequence", least=1)
    micro_tokens: int = _training(8192, help="tokens per forward pass; less = less memory", least=1, free=True)
    lr: float = _training(1e-3, help="peak learning rate", above=0)
    lr_lora: float | None = _training(
        None, help="peak learning rate of LoRA", above=0, fixed=True, default_text="that of --lr"
    )
    warmup: float = _training(0.05, help="share of the steps that rise to it", least=0, most=1)
    weight_decay: float = _training(0.0, help="weight decay of AdamW", least=0)
    clip: float = _training(1.0, help="largest gradient norm; 0: no clipping", least=0)
    lora: int = _training(
        0,
        help="also train rank-R LoRA on the LLM's q, k, v, o; smollm2's prompts then need no worked examples (0: off)",
        metavar="R",
        least=0,
        fixed=True,
    )

    load_in: str | None = _speed(None, help="bitsandbytes quantisation of the frozen LLM", choices=LOAD_IN)
    precision: str | None = _speed(
        None, help="precision of the frozen parts", choices=PRECISIONS, default_text="bf16 if the device is fast at it"
    )
    gradient_checkpointing: bool = _speed(False, help="less memory, about a third more time", free=True)
    compile: bool = _speed(
        False, help="run the language model through torch.compile: minutes once, fewer launches a step"
    )
    cache: bool = _speed(True, help="run the vision tower in every step", free=True)
    features: str | None = _speed(
        None,
        help="keep the images' features in this folder",
        metavar="DIR",
        free=True,
        default_text="~/.cache/levlm/features/ENCODER if the run shows its images again; else they are not kept",
    )

    plan: bool = _price(False, help="print what the run takes, and stop: no weights needed; without data, GQA + VQAv2")
    world_size: int | None = _price(None, help="of --plan: GPUs", least=1, metavar="N", default_text="1 and 8")
    mfu: float = _price(0.4, help="of --plan: the share of a GPU's peak that is reached", above=0, most=1)
    peak_tflops: float = _price(989.0, help="of --plan: that peak, an H100's in bf16", above=0)

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
    _refuse_idle_flags(config)
    if config.encoder is None and config.init is None and (ENCODER.is_dir() or not config.plan):
        if not ENCODER.is_dir():
            raise UserError(f"{ENCODER} does not exist: run `deepspeed pretrain/run.py` first, or give --encoder DIR")
        config = replace(config, encoder=str(ENCODER))
    if not (config.gqa or config.vqav2 or config.conversations or config.plan):
        if not WORLD.is_dir():
            raise UserError(
                f"no data given and the embedded world {WORLD} does not exist: run `python scripts/make_world.py "
                f"{WORLD}`, or give --gqa DIR and --vqav2 DIR"
            )
        if os.environ.get("RANK", "0") == "0":
            print(f"no data given: the embedded world in {WORLD}", file=sys.stderr)
        steps, batch = config.steps or WORLD_STEPS, config.batch_questions or BATCH[0]
        config = replace(config, gqa=str(WORLD / "gqa"), vqav2=str(WORLD / "vqav2"), steps=steps, batch_questions=batch)
    if not (config.plan and not (config.gqa or config.vqav2 or config.conversations)):
        config.shares()  # to refuse bad weights before any work
    return config if config.out else replace(config, out=str(default_out(config)))


def _refuse_idle_flags(config: BridgeConfig) -> None:
    """Raises: UserError for a flag that would do nothing beside the others: it was meant to do something."""
    if config.conversation_images and not config.conversations:
        raise UserError("--conversation-images DIR is for the files of --conversations: give both")
    if config.lr_lora is not None and not config.lora:
        raise UserError(f"--lr-lora {config.lr_lora} is LoRA's learning rate: give --lora R as well, or leave it out")
    if config.features is not None and not config.cache:
        raise UserError("--features DIR keeps what --no-cache makes anew in every step: give one of them")
    if config.world_size is not None and not config.plan:
        raise UserError("--world-size is of --plan: a run has the processes that it is started with")
    if config.gqa or config.vqav2 or config.conversations:  # else the embedded world's, which has both
        for name, needed in {"gqa_split": "gqa", "vqav2_split": "vqav2", "vqav2_answers": "vqav2"}.items():
            if getattr(config, name) != getattr(BridgeConfig, name) and not getattr(config, needed):
                raise UserError(f"--{name.replace('_', '-')} is of --{needed}, which is not given")


def questions_a_step(config: BridgeConfig, total: int) -> int:
    """--batch-questions, or by default so many that a pass over `total` questions has enough steps."""
    return config.batch_questions or min(max(total // PASS_STEPS, BATCH[0]), BATCH[1])


def keeps_features(config: BridgeConfig, times: float) -> bool:
    """Whether features are kept, or made anew in each step. times: how often an image is shown, on average."""
    return config.cache and (bool(config.features) or times >= REUSED)


def default_out(config: BridgeConfig) -> Path:
    """A folder of the LLM's own, so that runs of several LLMs do not meet: smollm2 -> runs/bridge-smollm2,
    Qwen/Qwen3-0.6B -> runs/bridge-Qwen-Qwen3-0.6B, models/tiny.gguf -> runs/bridge-tiny. A run that goes on from
    runs/qwen/vlm is runs/qwen-continued.
    """
    if config.init is not None:
        folder = Path(config.init).resolve()
        return RUNS / f"{folder.parent.name if folder.name == 'vlm' else folder.name}-continued"
    llm = config.llm or ""
    path = Path(llm).resolve()
    if llm not in PRESETS and (path.exists() or path.suffix == ".gguf"):
        if path.parent.name == "snapshots":  # the hub's cache: models--Qwen--Qwen3-0.6B/snapshots/<hash>
            path = path.parent.parent
        llm = path.name.removesuffix(".gguf").removeprefix("models--")
    return RUNS / f"bridge-{re.sub(r'[^A-Za-z0-9._]+', '-', llm).strip('-.')}"
