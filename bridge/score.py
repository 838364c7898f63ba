"""Score any model's VQAv2, GQA or POPE predictions as the official evaluators do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.data.official import gqa_records, pope_label, pope_records, vqav2_records
from bridge.evaluation import details
from bridge.scoring import gqa, pope, vqav2
from bridge.scoring.joining import MODES, few, id_text, refuse_duplicates, refuse_strangers
from bridge.scoring.reading import answer_of, id_of, read_objects, read_predictions
from vlm.errors import UserError, run_command
from vlm.files import write_json
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
         or with one file that has the question ids of LLaVA's llava_pope_test.jsonl."""
# In llava_pope_test.jsonl, line n (from 1 on) of the file of category k has the id k * 10,000,000 + n.
LLAVA_CATEGORIES = ("adversarial", "random", "popular")
LLAVA_OFFSET = 10_000_000


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
    for file in files:
        own = enumerate(pope_records(file).items(), start=1)
        labels_of_file = {key: pope_label(line, f"{file}, line {n} (question {key})") for n, (key, line) in own}
        known[file.stem.removeprefix("coco_pope_")] = labels_of_file
    if questions.is_dir():
        records = _answers_of_folder(predictions, known)
    else:
        records = {category: read_objects(predictions) for category in known}
    labels: dict[str, pope.Texts] = {}
    answers: dict[str, pope.Texts] = {}
    for category, lines in records.items():
        labels[category], answers[category] = _joined(known[category], lines, f"{predictions}, {category}")
    return pope.score_categories(labels, answers, config.mode)


def _answers_of_folder(path: Path, labels: dict[str, dict[str, str]]) -> dict[str, list[Mapping]]:
    """Category -> answer records: of a folder with a file for each category, or of one file with LLaVA's ids."""
    if not path.is_dir():
        return _split_llava(read_objects(path), labels)
    records = {}
    for category in labels:
        files = [file for file in path.glob(f"*{category}*") if file.suffix in (".json", ".jsonl")]
        if len(files) != 1:
            raise UserError(f"{path} has {len(files)} .json or .jsonl files named after {category!r}; needed is one")
        records[category] = read_objects(files[0])
    return records


def _split_llava(records: Sequence[Mapping], labels: dict[str, dict[str, str]]) -> dict[str, list[Mapping]]:
    """One answers file for llava_pope_test.jsonl as records of each category, with that category's own ids."""
    own_ids = {category: list(known) for category, known in labels.items()}
    parts: dict[str, list[Mapping]] = {category: [] for category in labels}
    for record in records:
        number = id_of(record)  # 10000003 -> 1, 2: the third line of "random"
        place, index = divmod(number - 1, LLAVA_OFFSET) if isinstance(number, int) else (-1, 0)
        category = LLAVA_CATEGORIES[place] if place in range(len(LLAVA_CATEGORIES)) else ""
        if category not in labels or index >= len(own_ids[category]):
            raise UserError(
                f"question id {number!r} is not one of llava_pope_test.jsonl; for other answers give a folder with one "
                f"file for each category ({', '.join(labels)})"
            )
        parts[category].append({**record, "question_id": own_ids[category][index]})
    return parts


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
