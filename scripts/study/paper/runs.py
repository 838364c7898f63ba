"""Bridge runs on disk: which encoder, LLM and settings each was trained with, and how it was scored."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from bridge.config import BridgeConfig
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError
from vlm.files import read_json
from vlm.hub import is_hub_id
from vlm.run.settings import known_of

RANDOM = "random"
# `--llm` as it may have been given -> the name in the table, for the paper's two as the paper has it.
TITLES = {
    "llama": "Llama-1B",
    "meta-llama/Llama-3.2-1B-Instruct": "Llama-1B",
    "qwen": "Qwen-1.5B",
    "Qwen/Qwen2.5-1.5B-Instruct": "Qwen-1.5B",
    "smollm2": "SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "SmolLM2-135M",
}
# What a pair differs in on purpose, and what a run may go on with although it was another (where it lies, how it is cut
# up and recorded), decide nothing about the comparison.
IRRELEVANT = {"encoder", *(declared.name for declared in fields(BridgeConfig) if known_of(declared).free)}
PATHS = ("gqa", "vqav2", "conversations", "conversation_images")
EVALUATED = ("mode", "max_new_tokens", "limit_images")


@dataclass(frozen=True)
class Run:
    """objective: the encoder's training objective, or "random". settings: all of the bridge's own but the seed.
    vision: the ViT's sizes and pixel statistics, shared by an encoder and its random twin. training: the encoder's."""

    folder: Path
    objective: str
    llm: str
    seed: int
    settings: dict
    vision: dict
    training: dict
    report: dict
    scores: Path


def scores_folder(folder: Path, evaluation: str) -> Path:
    """RUN/eval; or, without one, OUT/eval/NAME of OUT/bridge/NAME, as scripts/quickstart.sh has it."""
    beside = folder.resolve().parent.parent / evaluation / folder.resolve().name
    own = folder / evaluation
    return own if own.is_dir() or not beside.is_dir() else beside


def encoder_config(name: str) -> Path | None:
    """config.json of an encoder by folder or hub id, of the hub's cache alone; None if it is not there."""
    file = Path(name).expanduser() / "config.json"
    if file.is_file():
        return file
    cached = try_to_load_from_cache(name, "config.json") if is_hub_id(name) else None
    return Path(cached) if isinstance(cached, str) else None  # else None, or a mark that the hub has no such file


def read_run(folder: Path, evaluation: str) -> Run | str:
    """A run of bridge/train.py scored in its folder `evaluation`; or why it has no place in the table."""
    config = read_json(folder / "config.json")
    scores = scores_folder(folder, evaluation)
    results = scores / "results.json"
    if not isinstance(config, dict) or "encoder" not in config or "llm" not in config:
        return "is no run of bridge/train.py: its config.json names no LLM and encoder"
    if config["llm"] is None or config["encoder"] is None:
        return "went on from another run (--init)"
    named = parse_encoder(config["encoder"])
    if named.kind == "blind":
        return "has no sight (--encoder blind)"
    if not results.is_file():
        return f"has no {evaluation}/results.json: run python bridge/evaluate.py {folder}"
    report = read_json(results)
    if report["sees"] != "images":
        return f"was shown {report['sees']}, not its images"
    if named.kind != "levljepa":
        return f"sees with {named.trained}, which none of the objectives trained"
    path = named.place
    file = encoder_config(path)
    if file is None:
        place = "in the hub's cache" if is_hub_id(path) else "here"
        return f"its encoder {path} is not {place}: run this from where bridge/train.py was run"
    encoder = read_json(file)
    if "vision_encoder" not in encoder:
        return f"its encoder {path} is no LeVLJEPA encoder: its config.json has no vision_encoder"
    llm = TITLES.get(config["llm"], Path(config["llm"]).name)
    settings = {name: value for name, value in config.items() if name not in IRRELEVANT | {"seed"}} | {"llm": llm}
    settings |= {name: str(Path(settings[name]).resolve()) for name in PATHS if settings.get(name)}
    training = encoder.get("training", {})
    return Run(
        folder=folder,
        objective=RANDOM if named.random else training.get("objective", "levljepa"),
        llm=llm,
        seed=config["seed"],
        settings=settings,
        vision={"sizes": encoder["vision_encoder"], "pixels": encoder.get("normalization")},
        training=training,
        report=report,
        scores=scores,
    )


def read_runs(folders: Sequence[Path], evaluation: str) -> tuple[list[Run], list[str]]:
    """The runs that have a place in the table, and a line for each folder that has none.

    Raises: UserError if none of the folders has one.
    """
    runs, left_out = [], []
    for folder in dict.fromkeys(folders):
        if not (folder / "config.json").is_file():
            left_out.append(f"{folder}: is no bridge run, it has no config.json")
            continue
        run = read_run(folder, evaluation)
        if isinstance(run, Run):
            runs.append(run)
        else:
            left_out.append(f"{folder}: {run}")
    if not runs:
        raise UserError(f"none of the {len(folders)} folders has a place in the table ({'; '.join(left_out[:3])})")
    return runs, left_out


def differences(one: Run, other: Run) -> list[str]:
    """What two runs differ in beside encoder and seed: `lr 0.001 / 0.002`."""
    pairs = [(name, one.settings.get(name), other.settings.get(name)) for name in one.settings | other.settings]
    pairs += [("seed", one.seed, other.seed)]
    pairs += [(name, one.report.get(name), other.report.get(name)) for name in EVALUATED]
    for part in ("sizes", "pixels"):
        mine, theirs = (run.vision[part] or {} for run in (one, other))
        pairs += [(f"the ViT's {name}", mine.get(name), theirs.get(name)) for name in {**mine, **theirs}]
    return [f"{name} {mine} / {theirs}" for name, mine, theirs in pairs if mine != theirs]
