"""`python bridge/score.py` from the repository's root, on small official files."""

import json
import subprocess
import sys

import commands
from tiny.official import gqa_question, pope_line, vqav2_annotation, vqav2_question, write_lines


def run(*arguments):
    return commands.start("bridge/score.py", *arguments, timeout=60)


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_vqav2(tmp_path, vqav2_files):
    predictions = write(tmp_path / "p.json", [{"question_id": 6, "answer": "B"}, {"question_id": 5, "answer": "c"}])
    result = run("vqav2", *vqav2_files, "--predictions", predictions, "--json", tmp_path / "out.json")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["overall", "50.00"] in lines
    assert ["yes/no", "100.00"] in lines
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["benchmark"], written["overall"], written["per_question"]) == (
        "vqav2",
        50.0,
        {"5": 0.0, "6": 100.0},
    )


def test_users_errors_are_one_line(tmp_path, vqav2_files):
    twice = write(tmp_path / "p.json", [{"question_id": 5, "answer": "b"}] * 2)
    result = run("vqav2", *vqav2_files, "--predictions", twice)
    assert result.returncode == 2
    assert "p.json answers 1 questions more than once (question ids 5)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    one = write(tmp_path / "one.json", [{"question_id": 5, "answer": "b"}])
    assert "1 questions have no prediction (6)" in run("vqav2", *vqav2_files, "--predictions", one).stderr
    assert "50.00" in run("vqav2", *vqav2_files, "--predictions", one, "--allow-missing").stdout
    wrong_split = (*vqav2_files[:1], write(tmp_path / "other.json", {"questions": []}), *vqav2_files[2:])
    assert "hold different questions: 2 ids are in one only" in run("vqav2", *wrong_split, "--predictions", one).stderr
    assert "--annotations is for vqav2" in run("gqa", *vqav2_files, "--predictions", one).stderr
    assert (
        "unrecognized arguments: --prediction"
        in run("vqav2", *vqav2_files, "--predictions", one, "--prediction").stderr
    )


def test_gqa(tmp_path):
    steps = [{"operation": "select", "argument": "it"}, {"operation": "verify color", "argument": "red"}]
    question = gqa_question("yes", "verify", question="Is it red?", steps=steps)
    chunks = tmp_path / "train_all_questions"
    chunks.mkdir()
    write(chunks / "train_all_questions_0.json", {"01": question})
    write(chunks / "train_all_questions_1.json", {"1": {**question, "answer": "no"}, "2": question})
    predictions = write(
        tmp_path / "p.json", [{"questionId": "01", "prediction": "Yes."}, {"questionId": "1", "prediction": "yes"}]
    )
    command = ("gqa", "--questions", chunks, "--predictions", predictions)
    assert ["accuracy", "0.00"] in [line.split() for line in run(*command).stdout.splitlines()]
    lines = [line.split() for line in run(*command, "--mode", "lmms").stdout.splitlines()]
    assert ["accuracy", "33.33"] in lines
    assert ["verify", "33.33", "(3", "questions)"] in lines
    assert "partial: 1 questions have no prediction and count as wrong" in run(*command, "--llava-processing").stdout


def test_pope(tmp_path):
    ids = range(1, 5)
    folder = tmp_path / "pope"
    for category in ("adversarial", "popular", "random"):
        records = [pope_line(number, "x", "?", "yes" if number % 2 else "no") for number in ids]
        write_lines(folder / f"coco_pope_{category}.json", records)
    by_order = write_lines(
        tmp_path / "order.json", [{"question": "?", "answer": text} for text in ("yes", "no", "no", "no")]
    )
    one = run("pope", "--questions", folder / "coco_pope_random.json", "--predictions", by_order)
    assert ["accuracy", "0.7500"] in [line.split() for line in one.stdout.splitlines()]
    short = write_lines(tmp_path / "short.json", [{"answer": "yes"}])
    refused = run("pope", "--questions", folder / "coco_pope_random.json", "--predictions", short)
    assert (refused.returncode, "4 labels and 1 answers" in refused.stderr) == (2, True)

    # one file with the ids of LLaVA's question file, out of order
    offsets = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
    llava = [
        {"question_id": offset + number, "text": "Yes" if number % 2 or category == "popular" else "No"}
        for category, offset in offsets.items()
        for number in ids
    ]
    answers = write_lines(tmp_path / "llava.jsonl", llava[::-1])
    result = run("pope", "--questions", folder, "--predictions", answers, "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "out.json").read_text())
    assert [scores[category]["accuracy"] for category in offsets] == [1.0, 1.0, 0.5]

    for category in offsets:
        write_lines(
            tmp_path / "answers" / f"{category}.jsonl", [{"question_id": str(n), "text": "no"} for n in ids if n > 1]
        )
    result = run("pope", "--questions", folder, "--predictions", tmp_path / "answers")
    assert "random: 4 questions; partial: 1 have no answer and count as wrong" in result.stdout
    for category in offsets:  # as evaluate.py writes what it could not ask: POPE's script reads "" as yes
        records = [{"question_id": n, "answer": "no"} for n in ids if n > 1]
        records.append({"question_id": 1, "answer": "", "answered": False})
        write_lines(tmp_path / "unasked" / f"{category}.jsonl", records)
    again = run("pope", "--questions", folder, "--predictions", tmp_path / "unasked")
    assert again.stdout == result.stdout.replace(str(tmp_path / "answers"), str(tmp_path / "unasked"))


def pope_folder(folder, random=4, others=4):
    """POPE's three files, in which each line asks about another thing."""
    for category, count in (("adversarial", others), ("popular", others), ("random", random)):
        lines = [
            pope_line(number, "x", f"Is there a thing{number} in the image?", "yes" if number % 2 else "no")
            for number in range(1, count + 1)
        ]
        write_lines(folder / f"coco_pope_{category}.json", lines)
    return folder


def llava_answers(file, question_of=None, random=4, others=4):
    """One answers file with LLaVA's ids, all right. question_of: number -> what the answer repeats as its prompt."""
    records = []
    for offset, count in ((0, others), (10_000_000, random), (20_000_000, others)):
        for number in range(1, count + 1):
            records.append({"question_id": offset + number, "text": "Yes" if number % 2 else "No"})
            if question_of:
                records[-1]["prompt"] = question_of(number) + "\nAnswer the question using a single word or phrase."
    return write_lines(file, records)


def test_llavas_answers_are_joined_only_to_the_questions_that_were_asked(tmp_path):
    def asked(number):
        return f"Is there a thing{number} in the imange?"  # as POPE's files of August 2023 spell some

    def refusal(folder, answers):
        result = run("pope", "--questions", folder, "--predictions", answers)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
        assert "coco_pope_random.json of github.com/AoiDragon/POPE at commit e3e39262" in result.stderr
        return result.stderr

    folder = pope_folder(tmp_path / "pope")
    right = run("pope", "--questions", folder, "--predictions", llava_answers(tmp_path / "right.jsonl", asked))
    assert line(right, "accuracy") == "1.0000", right.stderr
    # prompts: a question that is interspersed moves all behind it
    moved = llava_answers(tmp_path / "moved.jsonl", lambda number: asked(number + (number > 2)))
    message = "moved.jsonl, adversarial, record 3 answers 'Is there a thing4 in the imange?"
    assert message in (said := refusal(folder, moved))
    assert "but question 3 is 'Is there a thing3 in the image?'; give the questions that were asked" in said

    # no prompts: the number of answers must be that of the lines, or the file LLaVA's
    longer = pope_folder(tmp_path / "longer", random=6)
    said = refusal(longer, llava_answers(tmp_path / "bare.jsonl"))
    assert "coco_pope_random.json has 6 lines, 2,910 are needed for answers" in said
    theirs = pope_folder(tmp_path / "theirs", random=2910, others=3000)
    assert run("pope", "--questions", theirs, "--predictions", tmp_path / "bare.jsonl").returncode == 0


def test_answers_of_a_category_repeat_its_questions(tmp_path):
    file = pope_folder(tmp_path) / "coco_pope_popular.json"
    for key in ("question", "prompt", "text"):
        records = [{key: f"Is there a thing{number} in the image?", "answer": "no"} for number in (1, 2, 4, 3)]
        answers = write_lines(tmp_path / "a.jsonl", records)
        result = run("pope", "--questions", file, "--predictions", answers)
        assert result.returncode == 2
        assert "a.jsonl, popular, record 3 answers 'Is there a thing4 in the image?', but question 3" in result.stderr
        ids = [record | {"question_id": number} for number, record in zip((1, 2, 4, 3), records)]
        result = run("pope", "--questions", file, "--predictions", write_lines(tmp_path / "a.jsonl", ids))
        assert line(result, "accuracy") == "0.5000", result.stderr


def test_predictions_of_another_split_are_no_score_of_zero(tmp_path):
    questions = write(tmp_path / "q.json", {"1": {"isBalanced": True}})
    predictions = write(tmp_path / "p.json", [{"questionId": "2", "prediction": "yes"}])
    result = run("gqa", "--questions", questions, "--predictions", predictions)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "p.json: none of the 1 predictions (2) is for one of the 1 questions (1)" in result.stderr
    labels = write_lines(tmp_path / "coco_pope_random.json", [{"question_id": 1, "label": "yes"}])
    answers = write_lines(tmp_path / "a.json", [{"question_id": 7, "answer": "yes"}])
    result = run("pope", "--questions", labels, "--predictions", answers)
    assert (result.returncode, "a.json, random: none of the 1 predictions (7)" in result.stderr) == (2, True)


def test_files_of_another_kind_are_one_line(tmp_path, vqav2_files):
    predictions = write(tmp_path / "p.json", [{"questionId": "2", "prediction": "yes"}])
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff\xe0")
    for command in (
        ("gqa", "--questions", vqav2_files[1], "--predictions", predictions),
        ("gqa", "--questions", tmp_path / "none.json", "--predictions", predictions),
        ("vqav2", "--questions", vqav2_files[1], "--annotations", predictions, "--predictions", predictions),
        ("pope", "--questions", tmp_path / "binary", "--predictions", predictions),
    ):
        result = run(*command)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr


def line(result, name):
    """The value behind `name` in the table."""
    return next(text.split()[1] for text in result.stdout.splitlines() if text.split()[:1] == [name])


def test_votes_without_answer_id_keep_the_official_number_and_are_told(tmp_path):
    votes = [{"answer": "red"}] * 10
    records = [{**vqav2_annotation(number, ["red"]), "answers": votes} for number in (1, 2)]
    files = (
        *("--questions", write_lines(tmp_path / "q.jsonl", [vqav2_question(1, 1, "?"), vqav2_question(2, 1, "?")])),
        *("--annotations", write(tmp_path / "a.json", records)),  # the bare list
        *("--predictions", write_lines(tmp_path / "p.jsonl", [{"question_id": n, "answer": "red"} for n in (1, 2)])),
    )
    result = run("vqav2", *files)
    assert (result.returncode, line(result, "overall")) == (0, "0.00")
    assert result.stdout.splitlines()[1] == (
        "note: 2 of 2 questions lose points because equal votes without an answer_id of their own leave each other "
        "out, as the official rule has it (question ids 1, 2); --by-position counts each vote: overall 100.00"
    )
    counted = run("vqav2", *files, "--by-position")
    assert line(counted, "overall") == "100.00" and "note" not in counted.stdout
    assert "--by-position is for vqav2, not for gqa" in run("gqa", *files[:2], *files[4:], "--by-position").stderr


def test_vqav2_oddities(tmp_path, vqav2_files):
    capital = write(tmp_path / "c.json", [{"question_id": 1, "answer": "Yes"}])
    annotations = write(tmp_path / "y.json", {"annotations": [vqav2_annotation(1, ["yes"] * 10, "is it", "yes/no")]})
    questions = write(tmp_path / "yq.json", {"questions": [vqav2_question(1, 1, "?")]})
    unanimous = ("vqav2", "--questions", questions, "--annotations", annotations, "--predictions", capital)
    result = run(*unanimous)
    assert line(result, "overall") == "0.00"
    assert "note: 1 of 1 predictions lose points for case or punctuation alone ('Yes', question id 1)" in result.stdout
    assert "note" not in run(*unanimous, "--llava-processing").stdout
    number = write(tmp_path / "n.json", [{"question_id": 5, "answer": 2}, {"question_id": 6, "answer": "b"}])
    assert (
        "1 predicted answers are not strings (question ids 5)"
        in run("vqav2", *vqav2_files, "--predictions", number).stderr
    )
    for change, message in (
        ({"answer_type": "colour"}, "annotation 1 (question 1): answer_type is 'colour'; it is one of yes/no, number"),
        (
            {"answers": [{"answer": "a", "answer_confidence": "sure"}]},
            "annotation 1 (question 1): an answer_confidence is 'sure'; it is one of yes, maybe, no",
        ),
    ):
        write(annotations, {"annotations": [{**vqav2_annotation(1, ["yes"] * 10), **change}]})
        assert message in run(*unanimous).stderr


def test_pope_labels_and_answers(tmp_path):
    def score(labels, answers):
        lines = [pope_line(number, "x", "?", label) for number, label in enumerate(labels, start=1)]
        questions = write_lines(tmp_path / "coco_pope_random.json", lines)
        return run("pope", "--questions", questions, "--predictions", write_lines(tmp_path / "a.jsonl", answers))

    answers = [{"question_id": number, "answer": text} for number, text in ((1, "Yes"), (2, "No"), (3, "NO"))]
    result = score(["Yes", "No", " NO"], answers)
    assert line(result, "accuracy") == "0.6667"  # the rule reads "NO" as yes
    assert "note: 1 of 3 answers say neither yes nor no and count as yes, as POPE's rule has it; the first is 'NO'" in (
        result.stdout
    )
    assert "coco_pope_random.json, line 2 (question 2): the label 'maybe' is neither yes nor no" in (
        score(["yes", "maybe", "no"], answers).stderr
    )
    assert (
        "record 2: the answer is 1; needed is text"
        in score(["yes", "no"], [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": 1}]).stderr
    )
    assert (
        "record 2 has no question_id, others have one"
        in score(["yes", "no"], [{"question_id": 1, "answer": "yes"}, {"answer": "no"}]).stderr
    )
    # both files as JSON lists
    listed = write(tmp_path / "coco_pope_popular.json", [pope_line(1, "x", "?", "yes"), pope_line(2, "x", "?", "no")])
    predictions = write(tmp_path / "b.json", [{"question_id": "2", "text": "no"}, {"question_id": 1.0, "text": "yes"}])
    assert line(run("pope", "--questions", listed, "--predictions", predictions), "accuracy") == "1.0000"


def test_a_reader_that_has_gone_is_no_traceback(tmp_path):
    files = ("--questions", write(tmp_path / "q.json", {"1": gqa_question("red")}))
    files += ("--predictions", write(tmp_path / "p.json", {"1": "red"}), "--json", tmp_path / "out.json")
    command = [sys.executable, "bridge/score.py", "gqa", *map(str, files)]
    running = subprocess.Popen(command, cwd=commands.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout and running.stderr
    running.stdout.close()
    assert (running.wait(60), running.stderr.read()) == (141, "")
    assert json.loads((tmp_path / "out.json").read_text())["accuracy"] == 100.0
