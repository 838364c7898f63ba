"""Score any model's VQAv2, GQA or POPE predictions as the official evaluators do."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.data.official import gqa_files, gqa_records
from bridge.evaluation import details
from bridge.scoring import gqa, pope, vqav2
from bridge.scoring.joining import check_records, few, refuse_duplicates, refuse_strangers
from vlm.errors import UserError, run_command
from vlm.files import read_json, read_jsonl, write_json

EXAMPLES = """examples:
  python bridge/score.py gqa --questions testdev_balanced_questions.json --predictions predictions.json
  python bridge/score.py gqa --questions val_all_questions.json --choices val_choices.json --predictions all.json
  python bridge/score.py vqav2 --questions v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --predictions predictions.json
  python bridge/score.py pope --questions coco_pope_random.json --predictions answers.jsonl
  python bridge/score.py pope --questions POPE_DIR --predictions ANSWERS_DIR --json scores.json

predictions:
  gqa    [{"questionId": "201307251", "prediction": "yes"}, ...]
  vqav2  [{"question_id": 262148000, "answer": "down"}, ...]
  pope   JSON lines, {"question_id": 1, "answer": "Yes"}; "text" does as well as "answer"; no question_id: by order.
         A folder of questions (coco_pope_*.json) goes with a folder that has one file for each category in its name,
         or with one file that has the question ids of LLaVA's llava_pope_test.jsonl."""
# In llava_pope_test.jsonl an id is the category's offset plus the number of the line in that category's file.
LLAVA_POPE_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def main() -> None:
    args = _parse()
    scores = {"gqa": _gqa, "vqav2": _vqav2, "pope": _pope}[args.benchmark](args)
    print(details.as_text(details.rows(args.benchmark, scores)))
    if args.json:
        write_json(args.json, {"benchmark": args.benchmark, **scores})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("benchmark", choices=["gqa", "vqav2", "pope"])
    parser.add_argument("--questions", type=Path, required=True, metavar="F", help="questions; gqa, pope: or a folder")
    parser.add_argument("--annotations", type=Path, metavar="F", help="vqav2: the annotations with the ten answers")
    parser.add_argument("--choices", type=Path, metavar="F", help="gqa: choices, for validity and plausibility")
    parser.add_argument("--predictions", type=Path, required=True, metavar="F", help="the model's answers, see below")
    parser.add_argument("--mode", choices=["official", "lmms"], default="official", help="lmms: as lmms-eval does")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything, with each question's score")
    parser.add_argument(
        "--llava-processing",
        action="store_true",
        help="gqa, vqav2: first put the predictions through LLaVA's conversion (lower case, some punctuation off)",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="vqav2: count unanswered questions as wrong instead of refusing"
    )
    args = parser.parse_args()
    belongs = {"annotations": "vqav2", "choices": "gqa", "allow_missing": "vqav2"}
    for name, benchmark in belongs.items():
        if getattr(args, name) and args.benchmark != benchmark:
            parser.error(f"--{name.replace('_', '-')} is for {benchmark}, not for {args.benchmark}")
    if args.benchmark == "vqav2" and not args.annotations:
        parser.error("vqav2 needs --annotations (v2_mscoco_..._annotations.json)")
    if args.llava_processing and args.benchmark == "pope":
        parser.error("--llava-processing is for gqa and vqav2: LLaVA converts nothing for pope")
    return args


def _gqa(args: argparse.Namespace) -> dict:
    predictions = _read_predictions(args.predictions, "questionId", "prediction")
    choices = _read_chunks(args.choices) if args.choices else None
    questions = _read_chunks(args.questions)
    refuse_strangers(questions, (record["questionId"] for record in predictions), str(args.predictions))
    return gqa.score(questions, predictions, choices, args.mode, llava_processing=args.llava_processing)


def _vqav2(args: argparse.Namespace) -> dict:
    questions, annotations = read_json(args.questions), read_json(args.annotations)
    _check_same_questions(questions, annotations, args)
    return vqav2.score(
        questions,
        annotations,
        _read_predictions(args.predictions, "question_id", "answer"),
        args.mode,
        llava_processing=args.llava_processing,
        allow_missing=args.allow_missing,
    )


def _pope(args: argparse.Namespace) -> dict:
    labels, answers = _pope_folder(args) if args.questions.is_dir() else _pope_file(args)
    return pope.score_categories(labels, answers, args.mode)


def _read_chunks(path: Path) -> dict[str, Mapping]:
    """A GQA file, or a folder of its chunks (train_all_questions/), merged."""
    if path.is_dir() and not gqa_files(path):
        raise UserError(f"{path} has no .json files; give a GQA questions or choices file, or the folder of its chunks")
    if not gqa_files(path):
        raise UserError(f"{path} does not exist")
    return gqa_records(path)


def _read_predictions(path: Path, id_key: str, answer_key: str) -> list[dict]:
    predictions = read_json(path)
    check_records(predictions, id_key, answer_key)
    refuse_duplicates((record[id_key] for record in predictions), str(path))
    return predictions


def _check_same_questions(questions: Any, annotations: Any, args: argparse.Namespace) -> None:
    """`UserError` where the two files are of different splits, which the official evaluator would not notice."""
    ids = []
    for content, key, path in (
        (questions, "questions", args.questions),
        (annotations, "annotations", args.annotations),
    ):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise UserError(f'{path} is not an official VQAv2 file: needed is an object with a list under "{key}"')
        if not all(isinstance(record, Mapping) and "question_id" in record for record in content[key]):
            raise UserError(f'{path} is not an official VQAv2 file: not all of its {key} have a "question_id"')
        ids.append({str(record["question_id"]) for record in content[key]})
    if ids[0] != ids[1]:
        raise UserError(
            f"{args.questions} and {args.annotations} hold different questions: {len(ids[0] ^ ids[1])} ids are in one "
            f"only ({few(ids[0] ^ ids[1])}); give both files of one split"
        )


def _pope_file(args: argparse.Namespace) -> tuple[dict, dict]:
    category = re.sub(r"^coco_pope_", "", args.questions.stem)
    labels = _pope_labels(args.questions)
    return _joined({category: labels}, {category: _read_lines(args.predictions)}, str(args.predictions))


def _pope_folder(args: argparse.Namespace) -> tuple[dict, dict]:
    labels = {path.stem[len("coco_pope_") :]: _pope_labels(path) for path in args.questions.glob("coco_pope_*.json")}
    labels = dict(sorted(labels.items()))
    if not labels:
        raise UserError(f"{args.questions} has no coco_pope_*.json; give POPE's folder or one of its files")
    if not args.predictions.is_dir():
        return _joined(labels, _split_llava(_read_lines(args.predictions), labels), str(args.predictions))
    records = {}
    for category in labels:
        paths = [path for path in args.predictions.glob(f"*{category}*") if path.suffix in (".json", ".jsonl")]
        if len(paths) != 1:
            raise UserError(
                f"{args.predictions} has {len(paths)} .json or .jsonl files named after {category!r}; needed is one"
            )
        records[category] = _read_lines(paths[0])
    return _joined(labels, records, str(args.predictions))


def _pope_labels(path: Path) -> dict[str, str]:
    records = _read_lines(path)
    if any("question_id" not in record or "label" not in record for record in records):
        raise UserError(f'{path} is not a POPE file: needed are lines with "question_id" and "label"')
    if wrong := [record["question_id"] for record in records if not isinstance(record["label"], str)]:
        raise UserError(f"{path} is not a POPE file: the label of question {wrong[0]} is not yes or no")
    refuse_duplicates((record["question_id"] for record in records), str(path))
    return {str(record["question_id"]): record["label"] for record in records}


def _split_llava(records: list[dict], labels: dict[str, dict]) -> dict[str, list[dict]]:
    """One answers file for llava_pope_test.jsonl as records of each category, with that category's own ids."""
    parts: dict[str, list[dict]] = {category: [] for category in labels}
    for record in records:
        number = record.get("question_id")
        found = [name for name, offset in LLAVA_POPE_OFFSETS.items() if isinstance(number, int) and number > offset]
        category = max(found, key=LLAVA_POPE_OFFSETS.get, default=None)
        position = number - LLAVA_POPE_OFFSETS[category] - 1 if category else 0
        if category not in labels or position >= len(labels[category]):
            raise UserError(
                f"question id {number!r} is not one of llava_pope_test.jsonl; for other answers give a folder with one "
                f"file for each category ({', '.join(labels)})"
            )
        parts[category].append({**record, "question_id": list(labels[category])[position]})
    return parts


def _joined(labels: dict[str, dict], records: dict[str, list[dict]], where: str) -> tuple[dict, dict]:
    """Labels and answers of each category as `pope.score_categories` takes them: by id where every answer has one."""
    answers: dict[str, Any] = {}
    for category, lines in records.items():
        texts = [record.get("text", record.get("answer")) for record in lines]
        if not texts or None in texts:
            raise UserError(
                f'{where}, {category}: every line needs "answer" or "text"; {texts.count(None)} have neither'
            )
        if all("question_id" in record for record in lines):
            refuse_duplicates((record["question_id"] for record in lines), f"{where}, {category},")
            answers[category] = {str(record["question_id"]): text for record, text in zip(lines, texts)}
            refuse_strangers(labels[category], answers[category], f"{where}, {category}")
        else:
            labels = {**labels, category: list(labels[category].values())}
            answers[category] = texts
    return labels, answers


def _read_lines(path: Path) -> list[dict]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a file of JSON lines")
    records = list(read_jsonl(path, complete=True))
    if not all(isinstance(record, Mapping) for record in records):
        raise UserError(f"{path} is not JSON lines: needed is one object a line")
    return records


if __name__ == "__main__":
    run_command(main)
