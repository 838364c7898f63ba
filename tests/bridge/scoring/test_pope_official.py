"""POPE scores against a second, slow reading of the official script and of lmms-eval's task."""

import random

from bridge.scoring import pope

PIECES = ["No", "no", "not", "NO", "Not", "none", "Yes", "yes", "cannot", "isn't", "doubt", "there", "is", "blue", ""]
JOINTS = [" "] * 6 + [",", ", ", ".", ". ", "\n", "\t", "  ", "!", "\u00a0"]


def make_case(count: int, seed: int) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    answers = []
    for _ in range(count):
        words = rng.choices(PIECES, k=rng.choice((1, 1, 1, 2, 3)))
        answers.append("".join(word + rng.choice(JOINTS) for word in words)[: None if rng.random() < 0.3 else -1])
    return rng.choices(["yes", "no"], k=count), answers


def says_no(text: str) -> bool:
    """Split as the script does: the first sentence, without its commas, at single spaces."""
    sentence = ""
    for character in text:
        if character == ".":
            break
        sentence += "" if character == "," else character
    word = ""
    for character in sentence + " ":
        if character != " ":
            word += character
            continue
        if word == "No" or word == "not" or word == "no":
            return True
        word = ""
    return False


def divided(upper: float, lower: float) -> float:
    return upper / lower if lower else 0.0


def measured(tp: int, fp: int, tn: int, fn: int, right: int, total: int, yes_ratio: float) -> dict:
    precision, recall = divided(tp, tp + fp), divided(tp, tp + fn)
    f1 = divided(2 * precision * recall, precision + recall)
    rates = {"accuracy": right / total, "precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes_ratio}
    return {**rates, "tp": tp, "fp": fp, "tn": tn, "fn": fn}


def official(labels: list[str], answers: list[str]) -> dict:
    tp = fp = tn = fn = 0
    for label, answer in zip(labels, answers):
        if says_no(answer):
            tn, fn = tn + (label == "no"), fn + (label != "no")
        else:
            fp, tp = fp + (label == "no"), tp + (label != "no")
    return measured(tp, fp, tn, fn, tp + tn, len(labels), (tp + fp) / len(answers))


def lmms(labels: list[str], answers: list[str]) -> dict:
    tp = fp = tn = fn = right = 0
    for label, answer in zip(labels, answers):
        said = answer.lower().strip()
        right += said == label
        if said == "yes":
            tp, fp = tp + (label == "yes"), fp + (label == "no")
        elif said == "no":
            tn, fn = tn + (label == "no"), fn + (label == "yes")
    return measured(tp, fp, tn, fn, right, len(labels), labels.count("yes") / len(labels))


def test_answer_by_answer():
    _, answers = make_case(4000, seed=0)
    assert [pope.parse_yes_no(text) for text in answers] == ["no" if says_no(text) else "yes" for text in answers]
    assert 600 < sum(map(says_no, answers)) < 3400


def test_metrics_by_order_by_id_and_over_categories():
    cases = {name: make_case(count, count) for name, count in (("random", 2910), ("popular", 300), ("adversarial", 2))}
    for mode, reference in (("official", official), ("lmms", lmms)):
        for labels, answers in cases.values():
            expected = reference(labels, answers)
            scores = pope.score(labels, answers, mode)
            assert {name: scores[name] for name in expected} == expected
            order = random.Random(1).sample(range(len(labels)), len(labels))
            by_id = pope.score(dict(enumerate(labels)), {str(i): answers[i] for i in order}, mode)
            assert {name: by_id[name] for name in expected} == expected
        labels, answers = ({name: case[side] for name, case in cases.items()} for side in (0, 1))
        scores = pope.score(labels, answers, mode)
        for name in ("accuracy", "f1", "yes_ratio"):
            assert scores["mean"][name] == sum(reference(*case)[name] for case in cases.values()) / 3
        if mode == "lmms":
            pooled = lmms(*([text for case in cases.values() for text in case[side]] for side in (0, 1)))
            assert {name: scores["pooled"][name] for name in pooled} == pooled
