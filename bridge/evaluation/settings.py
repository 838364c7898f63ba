"""The command line of bridge/evaluate.py, and the folders and benchmarks that it names."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bridge.config import LOAD_IN, PRECISIONS, WORLD
from bridge.evaluation.benchmarks import Benchmark, check_answers, read_gqa, read_pope, read_vqav2
from bridge.scoring.joining import MODES
from vlm.errors import UserError
from vlm.run.settings import parse, setting, timeout_setting

EXAMPLES = """examples:
  python bridge/evaluate.py runs/qwen --gqa world/gqa --vqav2 world/vqav2 --pope world/pope
  python bridge/evaluate.py runs/qwen/vlm --gqa gqa --gqa-split testdev --baseline random=runs/random/eval
  python bridge/evaluate.py runs/qwen --vqav2 vqav2 --vqav2-split test-dev2015      submission file for EvalAI
  python bridge/evaluate.py runs/qwen --pope world/pope --oracle world/captions.json --out runs/qwen/oracle
  python bridge/evaluate.py runs/qwen --gqa lmms-lab/GQA --pope lmms-lab/POPE         hub ids, fetched once
  torchrun --nproc_per_node 8 bridge/evaluate.py runs/qwen --vqav2 vqav2              eight GPUs share the questions"""

_count = partial(setting, metavar="N", least=1)


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation. Paths are strings as given."""

    vlm: str = setting(help="folder saved by bridge/train.py, or its RUN", metavar="RUN/vlm", positional=True)
    gqa: str | None = setting(
        None,
        help="folder with {split}_balanced_questions.json and images/, or lmms-lab/GQA, by id or as a folder",
        metavar="DIR|HUB_ID",
    )
    vqav2: str | None = setting(
        None,
        help="folder with the official files and val2014/, or lmms-lab/VQAv2, by id or as a folder",
        metavar="DIR|HUB_ID",
    )
    pope: str | None = setting(
        None,
        help="folder with coco_pope_{category}.json and val2014/, or lmms-lab/POPE, by id or as a folder",
        metavar="DIR|HUB_ID",
    )
    gqa_split: str = setting("testdev", help="train, val, testdev (balanced), or val_all and the like")
    vqav2_split: str | None = setting(
        None,
        help="val2014, test-dev2015, ...; without annotations: submission file only",
        default_text="val2014; of the embedded world test-dev2015",
    )
    out: str | None = setting(None, help="where everything is written", metavar="DIR", default_text="RUN/eval")
    limit_images: int | None = _count(None, help="only the questions about each benchmark's first N images")
    max_new_tokens: int = _count(128, help="longest answer, in tokens; LLaVA's protocol has 128")
    mode: str = setting("official", help="official scores or lmms-eval's", choices=MODES)
    blind: bool = setting(False, help="control: the bare question, without any image slot")
    oracle: str | None = setting(None, help="captions.json: true captions in the images' place", metavar="FILE")
    shuffle_images: bool = setting(False, help="control: every question is shown another question's image")
    baseline: tuple[str, ...] = setting(
        (), help="another run's eval folder to compare with; may be repeated", metavar="NAME=DIR", repeated=True
    )
    batch_questions: int = _count(64, help="questions decoded together")
    precision: str | None = setting(
        None, help="fp32: ties cannot flip", choices=PRECISIONS, default_text="bf16 where the device is fast at it"
    )
    load_in: str | None = setting(None, help="bitsandbytes quantisation of the LLM", choices=LOAD_IN)
    device: str | None = setting(None, help="cpu, cuda, cuda:1", default_text="cuda if there is one")
    timeout: float = timeout_setting(help="minutes that a process may neither answer nor wait for the others")
    overwrite: bool = setting(False, help="discard the asked benchmarks' predictions in OUT, start anew")

    @property
    def sees(self) -> str:
        """What the LLM is given beside the question."""
        if self.blind:
            return "nothing"
        if self.oracle is not None:
            return "captions"
        return "other images" if self.shuffle_images else "images"


def parse_config(about: str, arguments: Sequence[str] | None = None) -> EvaluateConfig:
    """The command line -> config. A value out of its bounds, or several controls at once, are a UserError."""
    config = parse(EvaluateConfig, arguments, prog="python bridge/evaluate.py", about=about, examples=EXAMPLES)
    if any(row.partition("=")[0] == "this" for row in config.baseline):
        raise UserError("--baseline this=...: the run itself is called so; give the row another name")
    if config.blind + (config.oracle is not None) + config.shuffle_images > 1:
        raise UserError("--blind, --oracle and --shuffle-images exclude each other; give one of them")
    return config


def run_folders(config: EvaluateConfig) -> tuple[Path, Path]:
    """The VLM's folder, given itself or as RUN, and where results go: RUN/eval by default.

    Raises: UserError if there is no VLM, or results would go into it, or in the place of a baseline's.
    """
    given = Path(config.vlm)
    folder = given / "vlm" if (given / "vlm" / "config.json").is_file() else given
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{given} is no saved VLM: it or its folder vlm/ needs a config.json, as bridge/train.py saves it"
        )
    out = Path(config.out) if config.out else folder.parent / "eval"
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} is inside of {folder}, which could not be loaded any more: give another --out")
    for baseline in config.baseline:
        if Path(baseline.partition("=")[2]).resolve() == out.resolve():
            raise UserError(f"--baseline {baseline} is --out itself, which is written anew: give another --out")
    return folder, out


def chosen_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks that are named, or the embedded world's; a UserError if there are neither."""
    gqa, vqav2, pope = config.gqa, config.vqav2, config.pope
    vqav2_split = config.vqav2_split or "val2014"
    if not (gqa or vqav2 or pope):
        if not WORLD.is_dir():
            raise UserError(
                f"no benchmark given and the embedded world {WORLD} does not exist: give --gqa DIR, --vqav2 DIR or "
                f"--pope DIR, or run `python scripts/make_world.py {WORLD}`"
            )
        if os.environ.get("RANK", "0") == "0":
            print(f"no benchmark given: the held-out scenes of the embedded world in {WORLD}", file=sys.stderr)
        gqa, vqav2, pope = (str(WORLD / name) for name in ("gqa", "vqav2", "pope"))
        vqav2_split = config.vqav2_split or "test-dev2015"
    benchmarks = [replace(read_gqa(gqa, config.gqa_split), data=_whole(gqa))] if gqa else []
    benchmarks += [replace(read_vqav2(vqav2, vqav2_split), data=_whole(vqav2))] if vqav2 else []
    benchmarks += [replace(read_pope(pope), data=_whole(pope))] if pope else []
    for benchmark in benchmarks:
        check_answers(benchmark)
    return [benchmark.first_images(config.limit_images) for benchmark in benchmarks]


def _whole(data: str) -> str:
    """A folder as a path that holds wherever a command is started; a hub id as it is."""
    return str(Path(data).absolute()) if Path(data).is_dir() else data
