"""The settings of the `vlm` commands."""

from dataclasses import dataclass
from functools import partial

from vlm.run.settings import seed_setting, setting

# What several commands ask about the model that they open.
_device = partial(setting, None, help="cpu, cuda, cuda:1", default_text="cuda if there is one")
_precision = partial(
    setting, None, help="of the model", choices=("fp32", "bf16"), default_text="bf16 if the device is fast at it"
)
_load_in = partial(setting, None, help="quantise the language model by bitsandbytes", choices=("4bit", "8bit"))


@dataclass(frozen=True)
class ChatSettings:
    folder: str = setting(help="a VLM folder, such as RUN/vlm, or a hub id", positional=True, metavar="DIR")
    image: tuple[str, ...] = setting(
        (), help="the picture: JPEG, PNG, WEBP or GIF; several: --image A --image B", metavar="FILE", repeated=True
    )
    question: str | None = setting(None, help="ask this, print the answer alone, and end", metavar="TEXT")
    short: bool = setting(False, help="ask for a single word or phrase")
    max_new_tokens: int = setting(128, help="longest answer", metavar="N", least=1)
    json: bool = setting(
        False, help="print an object a line for each answer: question, answer, image, error, tokens, seconds"
    )
    stats: bool = setting(False, help="after each answer, its tokens and seconds on stderr")
    temperature: float | None = setting(
        None, help="sample: 1 as the model says, less is safer, 0 always the likeliest token [0]", metavar="T", least=0
    )
    top_p: float | None = setting(
        None, help="sample from the likeliest tokens that have this probability together", metavar="P", above=0, most=1
    )
    seed: int = seed_setting(help="of sampling: the same seed and questions give the same answers", metavar="N")
    device: str | None = _device()
    precision: str | None = _precision()
    load_in: str | None = _load_in()


@dataclass(frozen=True)
class FeaturesSettings:
    model: str = setting(
        help="a VLM folder, or an encoder: RUN/encoder, OWNER/NAME, hf:NAME, timm:NAME", positional=True, metavar="DIR"
    )
    images: tuple[str, ...] = setting(
        help="the pictures, side by side: JPEG, PNG, WEBP or GIF", positional=True, metavar="IMAGE"
    )
    out: str = setting("features.png", help="the picture to write: png, jpg, webp, pdf or svg", metavar="FILE")
    patch: str | None = setting(
        None,
        help="the patch of the first image that all are compared with, from 0,0 at the upper left",
        metavar="ROW,COL",
        default_text="the centre",
    )
    question: str | None = setting(
        None, help="of a VLM: also show what the tokens of its answer attend to", metavar="TEXT"
    )
    max_new_tokens: int = setting(64, help="longest answer", metavar="N", least=1)
    image_size: int | None = setting(
        None, help="of an encoder: read the images at another size", metavar="PIXELS", least=8
    )
    device: str | None = _device()


@dataclass(frozen=True)
class WebSettings:
    folder: str = setting(help="a VLM folder, such as RUN/vlm, or a hub id", positional=True, metavar="DIR")
    port: int = setting(7860, help="where the page is; 0 is any free port", metavar="P", least=0, most=65535)
    host: str = setting(
        "127.0.0.1", help="the address to listen at; other machines reach any but the default", metavar="ADDRESS"
    )
    name: tuple[str, ...] = setting(
        (), help="a further host name that browsers may use, as behind a proxy", metavar="NAME", repeated=True
    )
    world: str | None = setting(
        None,
        help="a world of scripts/make_world.py, for examples",
        metavar="DIR",
        default_text="world beside a folder that DIR lies in, as runs/world",
    )
    max_upload: float = setting(20, help="largest picture, in megabytes", metavar="MB", above=0, most=1000)
    max_new_tokens: int = setting(128, help="longest answer", metavar="N", least=1)
    device: str | None = _device()
    precision: str | None = _precision()
    load_in: str | None = _load_in()


@dataclass(frozen=True)
class DoctorSettings:
    what: tuple[str, ...] = setting(
        (),
        help="a VLM, an encoder, an export, a run or a data folder, or a hub id; nothing: the environment",
        positional=True,
        metavar="[labels] DIR",
    )
    json: bool = setting(False, help="print one object: what, kind, status, checks (level, name, text)")
    accept: bool = setting(
        False, help="of a VLM or an encoder whose files you changed on purpose: record them as they are, then check"
    )
    image: tuple[str, ...] = setting(
        (),
        help="of a VLM: pictures for its questions in place of drawn ones",
        metavar="FILE",
        repeated=True,
        default_text="four drawn shapes",
    )
    question: str | None = setting(None, help="for labels", metavar="TEXT", default_text="What color is the car?")
    answer: str | None = setting(None, help="for labels", metavar="TEXT", default_text="red")


@dataclass(frozen=True)
class ExportSettings:
    folder: str = setting(
        help="a VLM folder, such as RUN/vlm, or a hub id; an encoder, by any name that --encoder of the bridge takes",
        positional=True,
        metavar="DIR",
    )
    out: str = setting(help="a new folder for what is written", positional=True, metavar="OUT")
    format: str = setting("hf", help="what it is written for", choices=("hf", "vipllava", "gguf", "timm"))
    quantise: str | None = setting(
        None, help="with --format gguf: how matrices are stored", choices=("F32", "F16", "Q8_0"), default_text="F16"
    )
    results: str | None = setting(
        None, help="scores for the card: results.json of bridge/evaluate.py or bridge/results.py", metavar="FILE|DIR"
    )
    push: str | None = setting(None, help="upload OUT to this repository of the hub", metavar="OWNER/NAME")
    private: bool = setting(False, help="with --push: make the repository private if it is new")
