"""The three benchmarks as data: what is asked, how answers are scored, which files their own evaluators take."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bridge.data import official
from bridge.data.example import Example
from bridge.data.pictures import Picture
from bridge.scoring import gqa as gqa_scoring
from bridge.scoring import pope as pope_scoring
from bridge.scoring import vqav2 as vqav2_scoring
from vlm.errors import UserError

TITLES = {"gqa": "GQA", "vqav2": "VQAv2", "pope": "POPE"}


@dataclass(frozen=True)
class Benchmark:
    """The questions of a benchmark, and what scoring their answers needs: no file is read twice.

    `name` is gqa, vqav2 or pope. POPE's three files are one benchmark, with ids `category/id`, because they ask about
    the same images; `note` says which version of its random file was read. `truth` are the official records that GQA
    and VQAv2 are scored by, of these questions and maybe more; `choices` are those of GQA. `submitted` is the questions
    file whose ids the benchmark's server wants answers to; None: these questions. `data` is the folder or hub id that
    the questions were read from.
    """

    name: str
    split: str
    examples: tuple[Example, ...]
    truth: official.Records = field(default_factory=dict)
    choices: official.Records | None = None
    note: str = ""
    submitted: Path | None = None
    data: str = ""

    @property
    def images(self) -> list[Picture]:
        """Every image once, in the order of the questions."""
        return list(dict.fromkeys(example.image for example in self.examples))

    def first_images(self, count: int | None) -> "Benchmark":
        """Only the questions about the first `count` images; None: all."""
        kept = set(self.images[:count])
        return replace(self, examples=tuple(example for example in self.examples if example.image in kept))


def check_answers(benchmark: Benchmark) -> None:
    """Raises: UserError if some questions have true answers and others have none: no split is published so."""
    without = [example.question_id for example in benchmark.examples if example.answer is None]
    if without and len(without) < len(benchmark.examples):
        raise UserError(
            f"{TITLES[benchmark.name]}: {len(without)} of {len(benchmark.examples)} questions have no true answer, the "
            f"first is {without[0]}: fetch the file again"
        )


def read_gqa(directory: str | Path, split: str) -> Benchmark:
    directory = Path(directory).expanduser()
    examples, records = official.read_gqa(directory, split, allow_missing=True)
    choices = official.gqa_choices(directory, split)
    whole = Path(directory) / "submission_all_questions.json"
    tier = split.split("_")[0]
    if tier not in ("testdev", "test", "challenge", "submission"):  # scored here alone
        return Benchmark("gqa", split, tuple(examples), records, choices)
    own = Path(directory) / f"{tier}_all_questions.json"
    submitted = next((file for file in (whole, own) if official.gqa_files(file)), None)
    note = "" if submitted == whole or tier == "testdev" else _incomplete(whole, "GQA's server")
    return Benchmark("gqa", split, tuple(examples), records, choices, note, submitted)


def read_vqav2(directory: str | Path, split: str) -> Benchmark:
    directory = Path(directory).expanduser()
    examples, annotations = official.read_vqav2(directory, split, allow_missing=True)
    if not split.startswith("test"):  # scored here
        return Benchmark("vqav2", split, tuple(examples), annotations)
    whole = Path(directory) / "v2_OpenEnded_mscoco_test2015_questions.json"
    note = "" if whole.is_file() or annotations else _incomplete(whole, "the VQA challenge's server")
    return Benchmark("vqav2", split, tuple(examples), annotations, None, note, whole if whole.is_file() else None)


def _incomplete(whole: Path, server: str) -> str:
    return f"the submission file has these questions alone; {server} wants all of {whole}: put it there and run again"


def read_pope(directory: str | Path) -> Benchmark:
    examples: list[Example] = []
    for category in official.POPE_CATEGORIES:
        asked = official.pope(directory, category, allow_missing=True)
        examples += [replace(example, question_id=f"{category}/{example.question_id}") for example in asked]
    count = sum(example.question_id.startswith("random/") for example in examples)
    version = pope_scoring.RANDOM_FILES.get(count, "neither of POPE's own files")
    note = f"POPE's random file has {count} questions: {version}"
    return Benchmark("pope", "+".join(official.POPE_CATEGORIES), tuple(examples), note=note)


def score(benchmark: Benchmark, answers: Mapping[str, str], mode: str = "official") -> dict | None:
    """The score dict of `bridge.scoring` over all questions; those without an answer count as wrong.

    `per_question` is id -> points, 0 to 100, for all three. In official mode GQA's and VQAv2's answers first go through
    LLaVA's conversion. None if the split's true answers are not public.
    """
    if any(example.answer is None for example in benchmark.examples):
        return None
    if benchmark.name == "pope":
        return _score_pope(benchmark, answers, mode)
    asked = {example.question_id for example in benchmark.examples}
    truth = {key: record for key, record in benchmark.truth.items() if key in asked}
    convert = mode == "official"
    if benchmark.name == "gqa":
        return gqa_scoring.score(truth, answers, benchmark.choices, mode, llava_processing=convert)
    return vqav2_scoring.score(None, list(truth.values()), answers, mode, llava_processing=convert, allow_missing=True)


def _score_pope(benchmark: Benchmark, answers: Mapping[str, str], mode: str) -> dict:
    """Each category by POPE's own question ids, then all questions by `category/id` again."""
    labels: dict[str, dict[str, str]] = {}
    given: dict[str, dict[str, str]] = {}
    for example in benchmark.examples:
        category, question_id = example.question_id.split("/", 1)
        assert example.answer is not None  # `score` has seen to it
        labels.setdefault(category, {})[question_id] = example.answer
        given.setdefault(category, {})
        if example.question_id in answers:
            given[category][question_id] = answers[example.question_id]
    scores = pope_scoring.score_categories(labels, given, mode)
    points = {}
    for category in labels:
        for question_id, right in scores[category].pop("per_question").items():
            points[f"{category}/{question_id}"] = 100.0 * right
    return {**scores, "per_question": points}


def headline(name: str, scores: dict | None) -> float | None:
    """The one number of a benchmark, in percent: GQA accuracy, VQAv2 overall, POPE's mean accuracy."""
    if scores is None:
        return None
    if name == "pope":
        return round(100 * scores["mean"]["accuracy"], 2)
    return scores["accuracy" if name == "gqa" else "overall"]
