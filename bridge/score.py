"""Score any model's VQAv2, GQA or POPE predictions as the official evaluators do."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.data.official import POPE_CATEGORIES, gqa_files, gqa_records, pope_label, pope_records, vqav2_records
from bridge.evaluation import details
from bridge.scoring import gqa, pope, vqav2
from bridge.scoring.joining import MODES, few, id_text, refuse_duplicates, refuse_strangers
from bridge.scoring.reading import answer_of, id_of, question_of, read_objects, read_predictions
from vlm.errors import UserError, run_command
from vlm.files import refuse_output, write_json
from vlm.run.settings import flag, parse, setting

EXAMPLES = """examples:
  python bridge/score.py gqa --questions testdev_balanced_questions.json --predictions predictions.json
  python bridge/score.py gqa --questions val_all_questions.json --choices val_choices.json --predictions all.json
  python bridge/score.py vqav2 --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --predictions predictions.json
  python bridge/score.py pope --questions coco_pope_random.json --predictions answers.jsonl
  python bridge/score.py pope --questions POPE_DIR --predictions ANSWERS_DIR --json scores.json

predictions, as a JSON list, as JSON lines, or as one object {question id: answer}:
  gqa    {"questionId": "201307251", "prediction": "yes"}
  vqav2  {"question_id": 262148000, "answer": "down"}
  pope   {"question_id": 1, "answer": "Yes"}; without any question_id: by order.
         LLaVA's answers files, {"question_id": ..., "text": ...}, do as well for all three.
         A folder of questions (coco_pope_*.json) goes with a folder that has one file for each category in its name,
         or with one file that has the question ids of LLaVA's llava_pope_test.jsonl.
         Questions that the answers repeat (prompt, question) are compared with those of the file."""
# In llava_pope_test.jsonl, line n (from 1 on) of the file of category k has the id k * 10,000,000 + n. It was made of
# files of so many lines. POPE's later random file has 90 more, in between, and then line n is another question.
LLAVA_LINES = {"adversarial": 3000, "random": 2910, "popular": 3000}
LLAVA_OFFSET = 10_000_000
OLD_RANDOM = (
    "LLaVA's random file has 2,910 lines: output/coco/coco_pope_random.json of github.com/AoiDragon/POPE at commit "
    "e3e39262"
)


@dataclass(frozen=True)
class ScoreConfig:
    """One scoring. Paths are strings as given."""

    benchmark: str = setting(help="gqa, vqav2 or pope", choices=("gqa", "vqav2", "pope"), positional=True)
    questions: str = setting(help="questions; gqa, pope: or a folder", metavar="F")
    predictions: str = setting(help="the model's answers, see below", metavar="F")
    annotations: str | None = setting(None, help="vqav2: the annotations with the ten answers", metavar="F")
    choices: str | None = setting(None, help="gqa: choices, for validity and plausibility", metavar="F")
    mode: str = setting("official", help="lmms: as lmms-eval does", choices=MODES)
    json: str | None = setting(None, help="also write everything, with each question's score", metavar="OUT")
    llava_processing: bool = setting(
        False, help="gqa, vqav2: first convert the predictions as LLaVA does (lower case, some punctuation off)"
    )
    allow_missing: bool = setting(False, help="vqav2: count unanswered questions as wrong instead of refusing")
    by_position: bool = setting(
        False, help="vqav2: tell votes apart by their place, not by comparing them; for votes without an answer_id"
    )


def main() -> None:
    config = parse_config()
    refuse_output("--json", config.json, _files_read(config))
    scores = {"gqa": score_gqa, "vqav2": score_vqav2, "pope": score_pope}[config.benchmark](config)
    if config.json:
        write_json(config.json, {"benchmark": config.benchmark, **scores})
    print(details.as_text(details.rows(config.benchmark, scores)))


def parse_config(arguments: Sequence[str] | None = None) -> ScoreConfig:
    """The command line -> config; a UserError for a flag of another benchmark, or one that is missing."""
    config = parse(ScoreConfig, arguments, prog="python bridge/score.py", about=__doc__, examples=EXAMPLES)
    belongs = {"annotations": "vqav2", "choices": "gqa", "allow_missing": "vqav2", "by_position": "vqav2"}
    for name, benchmark in belongs.items():
        if getattr(config, name) and config.benchmark != benchmark:
            raise UserError(f"{flag(name)} is for {benchmark}, not for {config.benchmark}")
    if config.benchmark == "vqav2" and not config.annotations:
        raise UserError("vqav2 needs --annotations (v2_mscoco_..._annotations.json)")
    if config.llava_processing and config.benchmark == "pope":
        raise UserError("--llava-processing is for gqa and vqav2: LLaVA converts nothing for pope")
    return config


def _files_read(config: ScoreConfig) -> Iterator[Path]:
    """The files that are given, and those that are read of a folder: GQA's chunks, or POPE's categories."""
    for given in (config.questions, config.predictions, config.annotations, config.choices):
        path = Path(given or "")
        if given and config.benchmark == "gqa":
            yield from (path, *gqa_files(path))
        elif given and path.is_dir():
            yield from (file for file in path.iterdir() if any(name in file.name for name in POPE_CATEGORIES))
        elif given:
            yield path


def score_gqa(config: ScoreConfig) -> dict:
    choices = gqa_records(Path(config.choices)) if config.choices else None
    questions = gqa_records(Path(config.questions))
    predictions = read_predictions(config.predictions, "questionId", "prediction", questions)
    return gqa.score(questions, predictions, choices, config.mode, llava_processing=config.llava_processing)


def score_vqav2(config: ScoreConfig) -> dict:
    assert config.annotations is not None  # `parse_config` sees to it
    questions = vqav2_records(Path(config.questions), "questions")
    annotations = vqav2_records(Path(config.annotations), "annotations")
    if differ := questions.keys() ^ annotations.keys():  # the official evaluator would not notice
        raise UserError(
            f"{config.questions} and {config.annotations} hold different questions: {len(differ)} ids are in one only "
            f"({few(differ)}); give both files of one split"
        )
    predictions = read_predictions(config.predictions, "question_id", "answer", annotations)
    return vqav2.score(
        None,
        list(annotations.values()),
        predictions,
        config.mode,
        llava_processing=config.llava_processing,
        allow_missing=config.allow_missing,
        by_position=config.by_position,
    )


def score_pope(config: ScoreConfig) -> dict:
    """POPE's folder, or one of its files."""
    questions, predictions = Path(config.questions), Path(config.predictions)
    files = sorted(questions.glob("coco_pope_*.json")) if questions.is_dir() else [questions]
    if not files:
        raise UserError(f"{questions} has no coco_pope_*.json; give POPE's folder or one of its files")
    known: dict[str, dict[str, str]] = {}  # category -> question id -> label, in file order
    asked: dict[str, dict[str, str]] = {}  # the same -> the question, "" if the file has none
    for file in files:
        category, lines = file.stem.removeprefix("coco_pope_"), pope_records(file)
        own = enumerate(lines.items(), start=1)
        known[category] = {key: pope_label(line, f"{file}, line {n} (question {key})") for n, (key, line) in own}
        asked[category] = {key: str(line.get("text", line.get("question", ""))) for key, line in lines.items()}
    answers_to = _answers_of_folder if questions.is_dir() else _answers_to_file
    records = answers_to(predictions, asked)
    labels: dict[str, pope.Texts] = {}
    answers: dict[str, pope.Texts] = {}
    for category, lines in records.items():
        where = f"{predictions}, {category}"
        labels[category], answers[category] = _joined(known[category], lines, where)
        _check_questions(asked[category], lines, where)
    return pope.score_categories(labels, answers, config.mode)


def _answers_of_folder(path: Path, asked: dict[str, dict[str, str]]) -> dict[str, list[Mapping]]:
    """Category -> answer records: of a folder with a file for each category, or of one file with LLaVA's ids."""
    if not path.is_dir():
        return _split_llava(read_objects(path), asked)
    records = {}
    for category in asked:
        files = [file for file in path.glob(f"*{category}*") if file.suffix in (".json", ".jsonl")]
        if len(files) != 1:
            raise UserError(f"{path} has {len(files)} .json or .jsonl files named after {category!r}; needed is one")
        records[category] = read_objects(files[0])
    return records


def _answers_to_file(path: Path, asked: dict[str, dict[str, str]]) -> dict[str, list[Mapping]]:
    """The same of one category's file; of LLaVA's answers to all three, those to this one."""
    records, [category] = read_objects(path), asked
    keys = ["" if id_of(record) is None else id_text(id_of(record), "predictions") for record in records]
    places = [(int(key) - 1) // LLAVA_OFFSET if key.isdecimal() else -1 for key in keys]
    names = dict(enumerate(LLAVA_LINES))
    if set(places) != set(names) or all(key in asked[category] for key in keys):
        return {category: records}
    own = [record for record, place in zip(records, places) if names[place] == category]
    print(f"{path}: LLaVA's answers; {len(own):,} of {len(records):,} are to {category}", file=sys.stderr)
    return _split_llava(own or records, asked)


def _split_llava(records: Sequence[Mapping], asked: dict[str, dict[str, str]]) -> dict[str, list[Mapping]]:
    """One answers file for llava_pope_test.jsonl as records of each category, with that category's own ids.

    Raises: UserError if an id is none of that file's, or if nothing shows that the lines of a category are those that
        it was made of: their number, as many answers as lines, or answers that repeat their questions.
    """
    own_ids = {category: list(questions) for category, questions in asked.items()}
    parts: dict[str, list[Mapping]] = {category: [] for category in asked}
    for record in records:
        number = id_text(id_of(record), "predictions")  # 10000003 -> 1, 2: the third line of "random"
        place, index = divmod(int(number) - 1, LLAVA_OFFSET) if number.isdecimal() else (-1, 0)
        category = list(LLAVA_LINES)[place] if place in range(len(LLAVA_LINES)) else ""
        if category not in asked or index >= len(own_ids[category]):
            raise UserError(
                f"question id {number} is not one of llava_pope_test.jsonl; for other answers give a folder with one "
                f"file for each category ({', '.join(asked)})"
            )
        parts[category].append({**record, "question_id": own_ids[category][index]})
    for category, own in parts.items():
        lines = len(own_ids[category])
        unproven = "" in asked[category].values() or any(question_of(record) is None for record in own)
        if own and unproven and lines not in (LLAVA_LINES[category], len(own)):
            raise UserError(
                f"coco_pope_{category}.json has {lines:,} lines, {LLAVA_LINES[category]:,} are needed for answers with "
                "the ids of llava_pope_test.jsonl that do not repeat their questions; give POPE's own files "
                f"({OLD_RANDOM})"
            )
    return parts


def _check_questions(asked: dict[str, str], lines: Sequence[Mapping], place: str) -> None:
    """Refuse answers that repeat another question than the one they are joined to. asked: question id -> question."""
    with_ids = id_of(lines[0]) is not None  # and then all have one, as `_joined` wants
    keys = [id_text(id_of(record), place) for record in lines] if with_ids else list(asked)
    for number, (key, record) in enumerate(zip(keys, lines), start=1):
        said = question_of(record)
        if said is not None and key in asked and _plain(asked[key].split("\n")[0]) not in _plain(said):
            raise UserError(
                f"{place}, record {number} answers {said[:60]!r}, but question {key} is {asked[key][:60]!r}; give the "
                f"questions that were asked ({OLD_RANDOM})"
            )


def _plain(question: str) -> str:
    """A question without what POPE's versions differ in: "Is there an oven in the imange?" of 2023 is "... image?"."""
    return " ".join(question.lower().replace("imange", "image").split())


def _joined(labels: dict[str, str], lines: Sequence[Mapping], place: str) -> tuple[pope.Texts, pope.Texts]:
    """A category's labels and answers, by id if every answer has one, else by order."""
    if not lines:
        raise UserError(f"{place}: there are no answers; give a file with an answer to each question")
    where = [f"{place}, record {number}" for number in range(1, len(lines) + 1)]
    texts = [answer_of(record, "answer", here) for record, here in zip(lines, where)]
    for text, here in zip(texts, where):
        if not isinstance(text, str):
            raise UserError(f"{here}: the answer is {json.dumps(text)[:40]}; needed is text")
    if without := [here for record, here in zip(lines, where) if id_of(record) is None]:
        if len(without) < len(lines):
            raise UserError(f"{without[0]} has no question_id, others have one; give it to all, or to none: by order")
        return list(labels.values()), texts
    ids = [id_text(id_of(record), here) for record, here in zip(lines, where)]
    refuse_duplicates(ids, f"{place},")
    answers = dict(zip(ids, texts))
    refuse_strangers(labels, answers, place)
    unanswered = {key for key, record in zip(ids, lines) if record.get("answered") is False}  # as evaluate.py writes
    return labels, {key: text for key, text in answers.items() if key not in unanswered}


if __name__ == "__main__":
    run_command(main)
