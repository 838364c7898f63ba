"""GQA scores against a second, slow reading of the official main loop, on random questions with every kind of link."""

import random
import string
from collections import defaultdict

import pytest

from bridge.scoring import gqa

ANSWERS = ["yes", "no", "red", "blue", "T-shirt", "tshirt", "color", "shape", "left", "Cat.", "cat"]
OPERATIONS = ["select", "exist", "query", "choose name", "choose color", "verify", "relate", "filter color"]
ARGUMENTS = ["?", "name", "color", "man (1)", "existing", "on,s (2)"]


def make_questions(count: int, seed: int) -> dict[str, dict]:
    """Numbered questions: some unbalanced, some without a global group, entailing themselves and others."""
    rng = random.Random(seed)
    keys = [f"{rng.choice(('0', ''))}{number}" for number in range(count)]
    return {
        key: {
            "question": "Is it?",
            "answer": rng.choice(ANSWERS),
            "imageId": "1",
            "isBalanced": rng.random() < 0.7,
            "groups": {"global": rng.choice((None, "colour", "place", "thing")), "local": "x"},
            "types": {
                "structural": rng.choice(("verify", "query", "choose", "logical", "compare")),
                "semantic": rng.choice(("obj", "attr", "cat", "rel", "global")),
                "detailed": rng.choice(("directOf", "twoCommon", "existC", "comparativeChoose")),
            },
            "semantic": [
                {"operation": rng.choice(OPERATIONS), "argument": rng.choice(ARGUMENTS), "dependencies": []}
                for _ in range(rng.randrange(1, 6))
            ],
            "entailed": rng.sample(keys, rng.randrange(4)) + [key] * rng.randrange(2),
        }
        for key in keys
    }


def make_predictions(questions: dict[str, dict], seed: int) -> dict[str, str]:
    """Answers that are right, right but for case and punctuation, or others."""
    rng = random.Random(seed)
    predictions = {}
    for key, question in questions.items():
        answer = question["answer"]
        other = [answer.upper(), answer + "..", f".{answer}", f" {answer}! ", rng.choice(ANSWERS), "xyz"]
        predictions[key] = rng.choice([answer] * 4 + other)
    return predictions


def make_choices(questions: dict[str, dict], seed: int) -> dict[str, dict]:
    rng = random.Random(seed)
    return {key: {kind: rng.sample(ANSWERS, 6) for kind in ("valid", "plausible")} for key in questions}


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0


def without_punctuation(text: str) -> str:
    return "".join(character for character in text.lower() if character not in string.punctuation)


def equals(predicted: str, gold: str, mode: str) -> bool:
    if mode == "official":
        return predicted == gold
    return without_punctuation(predicted.strip()) == without_punctuation(gold)


def slow_scores(questions: dict, predictions: dict, choices: dict, mode: str) -> dict:
    """The official loop; it needs a prediction for every question."""
    lists, types = defaultdict(list), defaultdict(list)
    gold_counts, predicted_counts = defaultdict(dict), defaultdict(dict)
    for key, question in questions.items():
        if not question["isBalanced"]:
            continue
        gold, predicted = question["answer"], predictions[key]
        right = equals(predicted, gold, mode)
        steps = 0
        for step in question["semantic"]:
            text = step["operation"] + ": " + step["argument"]
            if "exist" not in text and "query: name" not in text and "choose name" not in text:
                steps += 1
        structural, semantic = question["types"]["structural"], question["types"]["semantic"]
        lists["accuracy"].append(right)
        lists["open" if structural == "query" else "binary"].append(right)
        for name, kind in (("structural_type", structural), ("semantic_type", semantic), ("steps", steps)):
            types[name, kind].append(right)
        for name, kind in (("validity", "valid"), ("plausibility", "plausible")):
            common = "Common" in question["types"]["detailed"]
            lists[name].append(predicted in (["color", "material", "shape"] if common else choices[key][kind]))
        others = [other for other in question["entailed"] if other != key]
        if right and others:
            lists["consistency"].append(average([equals(predictions[o], questions[o]["answer"], mode) for o in others]))
        group = question["groups"]["global"]
        if group is not None:
            gold_counts[group][gold] = gold_counts[group].get(gold, 0) + 1
            predicted_counts[group][predicted] = predicted_counts[group].get(predicted, 0) + 1
    weighted, total = 0, 0
    for group, counts in gold_counts.items():
        distance = sum((predicted_counts[group].get(a, 0) - count) ** 2 / count for a, count in counts.items())
        weighted += distance * sum(counts.values())
        total += sum(counts.values())
    names = ("accuracy", "binary", "open", "validity", "plausibility", "consistency")
    scores = {name: round(100 * average(lists[name]), 2) for name in names}
    scores["distribution"] = round(weighted / total / 100, 2)
    for (name, kind), values in types.items():
        scores.setdefault(f"per_{name}", {})[kind] = round(100 * average(values), 2)
    return scores


@pytest.mark.parametrize("mode", ["official", "lmms"])
def test_equal_to_the_official_loop(mode):
    distributions, consistencies = set(), set()
    for seed in range(12):
        questions = make_questions(250, seed)
        predictions, choices = make_predictions(questions, seed + 100), make_choices(questions, seed + 200)
        expected = slow_scores(questions, predictions, choices, mode)
        records = [{"questionId": key, "prediction": text} for key, text in predictions.items()]
        scores = gqa.score(questions, records, choices, mode)
        assert {name: scores[name] for name in expected} == expected
        converted = {key: text.rstrip(".").lower() for key, text in predictions.items()}
        expected = slow_scores(questions, converted, choices, mode)
        scores = gqa.score(questions, records, choices, mode, llava_processing=True)
        assert {name: scores[name] for name in expected} == expected
        distributions.add(scores["distribution"])
        consistencies.add(scores["consistency"])
    assert len(distributions) > 5 and len(consistencies) > 5 and 0.0 not in distributions | consistencies


def test_as_llava_scores_a_balanced_file():
    """LLaVA's edit of the script skips unbalanced questions and leaves out choices and consistency."""
    questions = make_questions(400, seed=50)
    balanced = {key: question for key, question in questions.items() if question["isBalanced"]}
    predictions = make_predictions(questions, seed=51)
    expected = slow_scores(questions, predictions, make_choices(questions, 52), "official")
    scores = gqa.score(questions, {key: predictions[key] for key in balanced})
    same = [name for name in expected if name not in ("validity", "plausibility", "consistency")]
    assert {name: scores[name] for name in same} == {name: expected[name] for name in same}
    assert (scores["validity"], scores["plausibility"], scores["missing"]) == (0.0, 0.0, 0)
