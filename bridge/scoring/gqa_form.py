"""Is what GQA's scoring reads of the form that the official files have? If not, a UserError says what is needed."""

from collections.abc import Mapping
from typing import Any

from bridge.scoring.joining import check_choice, few
from vlm.errors import UserError

STRUCTURAL_TYPES = ("verify", "query", "choose", "logical", "compare")
SEMANTIC_TYPES = ("obj", "attr", "cat", "rel", "global")
KINDS = ("valid", "plausible")  # of choices

Questions = dict[str, Mapping]  # question id -> question object


def balanced_questions(questions: Questions) -> Questions:
    """The balanced questions; a UserError if there are none, or if they carry no answers."""
    if other := [key for key, question in questions.items() if not isinstance(question, Mapping)]:
        raise UserError(f"{few(other)} is no GQA question: needed is a GQA questions file, question id -> record")
    for key, question in questions.items():
        if not isinstance(question.get("isBalanced", False), bool):
            raise UserError(f"question {key}: isBalanced is {question['isBalanced']!r}; needed is true or false")
    balanced = {key: question for key, question in questions.items() if question.get("isBalanced")}
    if not balanced:
        raise UserError(
            f"none of the {len(questions)} questions is balanced; give a GQA questions file with isBalanced"
        )
    for key, question in balanced.items():
        check_form(key, question)
    return balanced


def check_answers(questions: Questions, answers: Mapping[str, Any]) -> None:
    """Raise a UserError if a question that was answered, balanced or not, has no true answer to compare with."""
    for key in answers.keys() & questions.keys():
        if not isinstance(questions[key].get("answer"), str):
            raise UserError(f"question {key}: its answer is {questions[key].get('answer')!r}; needed is text")


def check_choices(balanced: Questions, choices: Mapping[str, Mapping]) -> None:
    """Raise a UserError if a balanced question's choices are not there, or are no lists."""
    if without := [key for key in balanced if key not in choices]:
        raise UserError(
            f"the choices have no entry for {len(without)} of {len(balanced)} balanced questions ({few(without)}); "
            "give the choices file of the same split, or none"
        )
    for key in balanced:
        record = choices[key]
        if not isinstance(record, Mapping) or not all(isinstance(record.get(kind), list) for kind in KINDS):
            raise UserError(f"the choices of question {key} must be an object with lists {' and '.join(KINDS)}")


def check_form(key: str, question: Mapping) -> None:
    """Raise a UserError if a balanced question lacks what scoring reads."""
    if absent := [field for field in ("answer", "types", "groups", "semantic") if field not in question]:
        raise UserError(
            f"question {key} has no {absent[0]!r}: the files of the hidden splits (test, challenge, submission) "
            "cannot be scored here; use train, val or testdev"
        )
    for field, parts in (("types", ("structural", "semantic", "detailed")), ("groups", ("global",))):
        if not isinstance(question[field], Mapping) or not all(part in question[field] for part in parts):
            raise UserError(f"question {key}: {field!r} must be an object with {', '.join(parts)}, as in GQA's files")
    check_choice(question["types"]["structural"], STRUCTURAL_TYPES, f"question {key}: the structural type")
    check_choice(question["types"]["semantic"], SEMANTIC_TYPES, f"question {key}: the semantic type")
    if not isinstance(question["types"]["detailed"], str):
        raise UserError(f"question {key}: the detailed type is {question['types']['detailed']!r}; needed is text")
    if not isinstance(question["groups"]["global"], str | None):
        raise UserError(f"question {key}: its global group is {question['groups']['global']!r}; needed is text or null")
    if not isinstance(question.get("entailed", []), list):
        raise UserError(f"question {key}: 'entailed' is {question['entailed']!r}; needed is a list of question ids")
    if not isinstance(question["answer"], str):
        raise UserError(f"question {key}: its answer is {question['answer']!r}; needed is text")
    steps = question["semantic"]
    needed = {"operation", "argument"}
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) and needed <= step.keys() for step in steps):
        raise UserError(f"question {key}: 'semantic' must be a list of operations with arguments, as in GQA's files")
