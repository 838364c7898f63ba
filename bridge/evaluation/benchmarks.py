"""The three benchmarks as data: what is asked, how answers are scored, which files their own evaluators take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.data import official
from bridge.data.example import Example
from bridge.scoring import gqa as gqa_scoring
from bridge.scoring import pope as pope_scoring
from bridge.scoring import vqav2 as vqav2_scoring
from vlm.errors import UserError
from vlm.files import read_json

TITLES = {"gqa": "GQA", "vqav2": "VQAv2", "pope": "POPE"}


@dataclass(frozen=True)
class Benchmark:
    """`name` is gqa, vqav2 or pope. POPE's three files are one benchmark, with ids `category/id`, because they ask
    about the same images; `note` says which version of its random file was read."""

    name: str
    split: str
    directory: Path
    examples: tuple[Example, ...]
    note: str = ""

    def first_images(self, count: int | None) -> "Benchmark":
        """Only the questions about the first `count` images."""
        if count is None:
            return self
        kept = set(list(dict.fromkeys(example.image for example in self.examples))[:count])
        return replace(self, examples=tuple(example for example in self.examples if example.image in kept))


def read_gqa(directory: str | Path, split: str) -> Benchmark:
    return Benchmark("gqa", split, Path(directory), tuple(official.gqa(directory, split, allow_missing=True)))


def read_vqav2(directory: str | Path, split: str) -> Benchmark:
    return Benchmark("vqav2", split, Path(directory), tuple(official.vqav2(directory, split, allow_missing=True)))


def read_pope(directory: str | Path) -> Benchmark:
    examples = [
        replace(example, question_id=f"{category}/{example.question_id}")
        for category in official.POPE_CATEGORIES
        for example in official.pope(directory, category, allow_missing=True)
    ]
    count = sum(example.question_id.startswith("random/") for example in examples)
    version = pope_scoring.RANDOM_FILES.get(count, "neither of POPE's own files")
    note = f"POPE's random file has {count} questions: {version}"
    return Benchmark("pope", "+".join(official.POPE_CATEGORIES), Path(directory), tuple(examples), note)


def score(benchmark: Benchmark, answers: Mapping[str, str], mode: str = "official") -> dict | None:
    """The score dict of `bridge.scoring` over all questions; those without an answer count as wrong.

    `per_question` is id -> points, 0 to 100, for all three. In official mode GQA's and VQAv2's answers first go through
    LLaVA's conversion. None where the split's true answers are not public.
    """
    if any(example.answer is None for example in benchmark.examples):
        return None
    return {"gqa": _score_gqa, "vqav2": _score_vqav2, "pope": _score_pope}[benchmark.name](benchmark, answers, mode)


def headline(name: str, scores: dict | None) -> float | None:
    """The one number of a benchmark, in percent: GQA accuracy, VQAv2 overall, POPE's mean accuracy."""
    if scores is None:
        return None
    return {
        "gqa": lambda: scores["accuracy"],
        "vqav2": lambda: scores["overall"],
        "pope": lambda: round(100 * scores["mean"]["accuracy"], 2),
    }[name]()


def submissions(benchmark: Benchmark, answers: Mapping[str, str]) -> dict[str, str]:
    """File name -> content in the official result formats; a question without an answer gets an empty one.

    VQAv2 and GQA answers are converted as LLaVA converts them, which is what `score` scores. POPE's official script
    reads an empty answer as yes, so those lines say `"answered": false`.
    """
    text = {example.question_id: answers.get(example.question_id, "") for example in benchmark.examples}
    if benchmark.name == "vqav2":
        rows = [{"question_id": _number(k), "answer": vqav2_scoring.process_as_llava(v)} for k, v in text.items()]
        return {f"vqav2_{benchmark.split}_results.json": json.dumps(rows, ensure_ascii=False)}
    if benchmark.name == "gqa":
        rows = [{"questionId": k, "prediction": gqa_scoring.process_as_llava(v)} for k, v in text.items()]
        return {f"gqa_{benchmark.split}_predictions.json": json.dumps(rows, ensure_ascii=False)}
    files: dict[str, str] = {}
    for example in benchmark.examples:
        category, question_id = example.question_id.split("/", 1)
        row = {
            "question": example.question,
            "answer": text[example.question_id],
            "question_id": _number(question_id),
        }
        if example.question_id not in answers:
            row["answered"] = False
        name = f"pope_{category}_answers.json"
        files[name] = files.get(name, "") + json.dumps(row, ensure_ascii=False) + "\n"
    return files


def _number(question_id: str) -> int | str:
    return int(question_id) if question_id.isdecimal() else question_id


def _score_gqa(benchmark: Benchmark, answers: Mapping[str, str], mode: str) -> dict:
    asked = {example.question_id for example in benchmark.examples}
    file = official.gqa_questions_file(benchmark.directory, benchmark.split)
    questions = {key: record for key, record in official.gqa_records(file).items() if key in asked}
    file = benchmark.directory / f"{benchmark.split.split('_')[0]}_choices.json"
    choices = read_json(file) if file.is_file() else None
    return gqa_scoring.score(questions, answers, choices, mode, llava_processing=mode == "official")


def _score_vqav2(benchmark: Benchmark, answers: Mapping[str, str], mode: str) -> dict:
    asked = {example.question_id for example in benchmark.examples}
    file = benchmark.directory / f"v2_mscoco_{benchmark.split}_annotations.json"
    annotations = [record for record in read_json(file)["annotations"] if str(record["question_id"]) in asked]
    return vqav2_scoring.score(
        None, annotations, answers, mode, llava_processing=mode == "official", allow_missing=True
    )


def _score_pope(benchmark: Benchmark, answers: Mapping[str, str], mode: str) -> dict:
    labels: dict[str, dict[str, str]] = {}
    given: dict[str, dict[str, str]] = {}
    for example in benchmark.examples:
        category, question_id = example.question_id.split("/", 1)
        labels.setdefault(category, {})[question_id] = example.answer
        given.setdefault(category, {})
        if example.question_id in answers:
            given[category][question_id] = answers[example.question_id]
    scores = pope_scoring.score(labels, given, mode)
    scores["per_question"] = {
        f"{category}/{key}": 100.0 * value
        for category in labels
        for key, value in scores[category].pop("per_question").items()
    }
    return scores


def read_captions(file: str | Path) -> dict[str, str]:
    """Image path relative to the world's root -> its true caption."""
    captions = read_json(file)
    if not isinstance(captions, dict) or not all(isinstance(value, str) for value in captions.values()):
        raise UserError(f'{file} is not a caption file: it must be an object {{"gqa/images/1.jpg": "caption", ...}}')
    return captions


def caption_of(image: Path, captions: Mapping[str, str], root: Path) -> str:
    """The caption of `image`, by its path below `root` or else by its last three parts; UserError if missing."""
    key = image.resolve()
    key = key.relative_to(root.resolve()) if key.is_relative_to(root.resolve()) else Path(*key.parts[-3:])
    if key.as_posix() not in captions:
        raise UserError(
            f"there is no caption of {image} (key {key.as_posix()!r}): the oracle row needs one of each image"
        )
    return captions[key.as_posix()]
