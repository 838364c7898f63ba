"""VQAv2 scores against a second, slow reading of the official rules, on answer sets made to meet every quirk."""

import random
import re
from collections import Counter
from functools import cache

from bridge.scoring import vqav2

COUNTED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {"none": 0, **{word: number for number, word in enumerate(COUNTED)}}
# The map as published also has these six, which change nothing.
WITHOUT_EFFECT = {"let's": "let's", "she's": "she's", "Im": "I'm", "Ive": "I've", "Id've": "I'd've", "I'dve": "I'd've"}
CONTRACTIONS = {**vqav2.CONTRACTIONS, **WITHOUT_EFFECT}
OFFICIAL, M4C = re.compile(r"(\d)(,)(\d)"), re.compile(r"(?<=\d)(,)+(?=\d)")

WORDS = ["red", "Red", "dogs", "yes", "Yes", "no", "a", "an", "The", "none", "Two", "ten", "eleven", "2", "10", "0"]
WORDS += ["1,000", "1000", "5-10", "3.5", ".5", "u.s.", "no.1", "t-shirt", "x/y", "dont", "don't", "Im", "im", "İ"]
WORDS += ["somebody'd", "let's", "lets", "٣,٤", "dog's", "1,,000", "50%", "ok?", "(ok)", "`hi`", "it’s", "a,b", "ΟΔΟΣ"]
SPACES = [" "] * 12 + ["  ", "\n", "\t", "\u00a0", " - ", ", ", ". ", "-", ",", "?", "; ", "{"]


def stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@cache
def processed(text: str, comma: re.Pattern) -> str:
    """Punctuation, periods, lower case, number words, articles, contractions, one after the other."""
    out = text
    for mark in [*';/[]"{}()=+\\_-><@`,?!']:
        if mark + " " in text or " " + mark in text or re.search(comma, text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    kept, deleted = "", 0
    for position, character in enumerate(out):
        if character == "." and not re.match(r"\d", out[position + 1 :]) and deleted < re.UNICODE.value:
            deleted += 1
        else:
            kept += character
    words = []
    for word in kept.lower().split():
        word = str(NUMBERS.get(word, word))
        if word not in ("a", "an", "the"):
            words.append(word)
    for position, word in enumerate(words):
        if word in CONTRACTIONS:
            words[position] = CONTRACTIONS[word]
    return " ".join(words)


def llava(text: str) -> str:
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return processed(stripped(text), M4C)


def question_score(answers: list[dict], prediction: str, mode: str) -> float:
    answers = [{**answer, "answer": stripped(answer["answer"])} for answer in answers]
    prediction = stripped(prediction)
    if mode == "lmms" or len({answer["answer"] for answer in answers}) > 1:
        comma = M4C if mode == "lmms" else OFFICIAL
        for answer in answers:
            answer["answer"] = processed(answer["answer"], comma)
        prediction = processed(prediction, comma)
    accuracies = []
    for answer in answers:
        matches = 0
        for other in answers:
            if other != answer and other["answer"] == prediction:
                matches += 1
        accuracies.append(min(1, matches / 3))
    return sum(accuracies) / len(accuracies)


def phrase(rng: random.Random) -> str:
    if rng.random() < 0.02:
        return "x." * rng.randrange(30, 40)
    words = rng.choices(WORDS, k=rng.choice((1, 1, 1, 2, 2, 3)))
    return "".join(word + rng.choice(SPACES) for word in words)[: None if rng.random() < 0.3 else -1]


def variant(rng: random.Random, text: str) -> str:
    """The same answer as another person would type it, or something else."""
    kind = rng.randrange(7)
    changes = [text, text.lower(), text.capitalize(), f"the {text}", f"{text}.", f" {text}\n", text.replace(",", "")]
    return phrase(rng) if rng.random() < 0.2 else changes[kind]


def make_case(count: int, seed: int) -> tuple[list[dict], dict[str, str]]:
    """Annotations and predictions: unanimous, quarrelling, with and without answer_id, 1 to 11 answers."""
    rng = random.Random(seed)
    annotations, predictions = [], {}
    for number in range(count):
        answer = phrase(rng)
        unanimous, ids = rng.random() < 0.25, rng.random() < 0.7
        texts = [answer if unanimous else variant(rng, answer) for _ in range(rng.choice((10, 10, 10, 1, 2, 3, 11)))]
        answers = [{"answer": text, "answer_confidence": rng.choice(("yes", "maybe"))} for text in texts]
        annotations.append(
            {
                "question_id": number,
                "question_type": rng.choice(("what", "is the", "how many")),
                "answer_type": rng.choice(("yes/no", "number", "other")),
                "answers": [{**a, "answer_id": i} if ids else a for i, a in enumerate(answers)],
            }
        )
        predictions[str(number)] = variant(rng, rng.choice(texts))
    return annotations, predictions


def test_text_by_text():
    rng = random.Random(1)
    texts = [phrase(rng) for _ in range(3000)]
    for text in texts:
        assert vqav2.normalise_answer(text) == processed(stripped(text), OFFICIAL), repr(text)
        assert vqav2.process_as_llava(text) == llava(text), repr(text)
    assert sum(OFFICIAL.search(text) is not None for text in texts) > 200
    assert sum(text.count(".") > 32 for text in texts) > 20
    assert sum(processed(text, OFFICIAL) == "" for text in texts) > 20


def test_question_by_question():
    annotations, predictions = make_case(800, seed=2)
    for mode in ("official", "lmms"):
        for convert, options in ((str, {}), (llava, {"llava_processing": True})):
            scores = vqav2.score(None, annotations, predictions, mode, **options)
            values, groups = {}, {"answer_type": {}, "question_type": {}}
            for record in annotations:
                key = str(record["question_id"])
                values[key] = question_score(record["answers"], convert(predictions[key]), mode)
                for name, group in groups.items():
                    group.setdefault(record[name], []).append(values[key])
            assert scores["per_question"] == {key: round(100 * value, 2) for key, value in values.items()}
            assert scores["overall"] == round(100 * sum(values.values()) / len(values), 2)
            for name, group in groups.items():
                assert scores[f"per_{name}"] == {k: round(100 * sum(v) / len(v), 2) for k, v in group.items()}
    seen = Counter(len({stripped(answer["answer"]) for answer in record["answers"]}) for record in annotations)
    assert seen[1] > 150 and seen.total() - seen[1] > 300
    assert len(set(values.values())) > 8, "the case must hold many degrees of agreement"
