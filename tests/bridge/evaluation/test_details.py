"""Score dicts as text, line by line."""

from tiny.official import gqa_question, vqav2_annotation

from bridge.evaluation import details
from bridge.scoring import gqa, pope, vqav2


def test_gqa():
    questions = {"1": gqa_question("yes", "verify", "attr"), "2": gqa_question("red", "query", "attr")}
    scores = gqa.score(questions, {"1": "yes"})
    assert details.brief("gqa", scores) == [
        "GQA: binary 100.00, open 0.00, validity -, plausibility -, consistency -, distribution -",
        "GQA by structural type: query 0.00 of 1, verify 100.00 of 1",
        "GQA by semantic type: attr 50.00 of 2",
    ]
    text = details.as_text(details.rows("gqa", scores)).splitlines()
    assert text[:3] == [
        "GQA, official mode, 2 questions, predictions as given",
        "partial: 1 questions have no prediction and count as wrong",
        "accuracy      50.00",
    ]
    assert text[5:9] == ["validity      -", "plausibility  -", "consistency   -", "distribution  -"]
    assert text[-2:] == ["per steps", "  1           50.00  (2 questions)"]


def test_vqav2():
    scores = vqav2.score(None, [vqav2_annotation(1, ["2"] * 10, "how many", "number")], {"1": "2"})
    assert details.brief("vqav2", scores) == ["VQAv2 by answer type: number 100.00"]
    assert details.as_text(details.rows("vqav2", scores)).splitlines()[1:] == [
        "overall     100.00",
        "per answer type",
        "  number    100.00",
        "per question type",
        "  how many  100.00",
    ]


def test_pope_says_which_random_file_and_what_was_unparsed():
    labels = {"random": ["yes", "no"] * 1455, "popular": ["no"]}
    scores = pope.score(labels, {"random": ["yes", "blue"] * 1455, "popular": ["no"]})
    assert details.brief("pope", scores) == [
        "POPE random: accuracy 50.00, precision 50.00, recall 100.00, f1 66.67, yes ratio 100.00, "
        "1455 answers neither yes nor no",
        "POPE popular: accuracy 100.00, precision -, recall -, f1 -, yes ratio 0.00, 0 answers neither yes nor no",
        "POPE mean: accuracy 75.00, precision -, recall -, f1 -, yes ratio 50.00",
    ]
    text = details.as_text(details.rows("pope", scores)).splitlines()
    assert text[1] == "random: 2910 questions (POPE's file of August 2023)"
    assert text[-6:-4] == ["mean", "  accuracy   0.7500"]
