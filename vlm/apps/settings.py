"""The settings of `vlm chat`, `vlm export` and `vlm doctor`."""

from dataclasses import dataclass

from vlm.run.settings import setting


@dataclass(frozen=True)
class ChatSettings:
    folder: str = setting(help="a VLM folder, such as RUN/vlm", positional=True, metavar="DIR")
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
    seed: int = setting(0, help="of sampling: the same seed and questions give the same answers", metavar="N", least=0)
    device: str | None = setting(None, help="cpu, cuda, cuda:1", default_text="cuda if there is one")
    precision: str | None = setting(
        None, help="of the model", choices=("fp32", "bf16"), default_text="bf16 if the device is fast at it"
    )
    load_in: str | None = setting(None, help="quantise the language model by bitsandbytes", choices=("4bit", "8bit"))


@dataclass(frozen=True)
class DoctorSettings:
    what: tuple[str, ...] = setting(help="a VLM folder, such as RUN/vlm", positional=True, metavar="[labels] DIR")
    question: str = setting("What color is the car?", help="for labels", metavar="TEXT")
    answer: str = setting("red", help="for labels", metavar="TEXT")


@dataclass(frozen=True)
class ExportSettings:
    folder: str = setting(
        help="a VLM folder, such as RUN/vlm, or a hub id; an encoder, by any name that --encoder of the bridge takes",
        positional=True,
        metavar="DIR",
    )
    out: str = setting(help="a new folder for what is written", positional=True, metavar="OUT")
    format: str = setting("hf", help="what it is written for", choices=("hf", "vipllava", "timm"))
    results: str | None = setting(
        None, help="scores for the card: results.json of bridge/evaluate.py or bridge/results.py", metavar="FILE|DIR"
    )
    push: str | None = setting(None, help="upload OUT to this repository of the hub", metavar="OWNER/NAME")
    private: bool = setting(False, help="with --push: make the repository private if it is new")
