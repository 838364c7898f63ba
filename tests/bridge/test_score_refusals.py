"""`python bridge/score.py` on files that it must not take, or not write over."""

import json

import commands
from tiny.official import gqa_question


def run(*arguments):
    return commands.start("bridge/score.py", *arguments, timeout=60)


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_no_file_that_is_read_is_written_over(tmp_path, vqav2_files):
    answers = write(tmp_path / "p.json", {"5": "b", "6": "b"})
    for given in (vqav2_files[1], vqav2_files[3], answers, tmp_path / "x/../p.json", tmp_path):
        (tmp_path / "x").mkdir(exist_ok=True)
        before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
        result = run("vqav2", *vqav2_files, "--predictions", answers, "--json", given)
        reason = "give a file, such as " if given == tmp_path else "is a file that is read: give another name"
        assert (result.returncode, result.stdout) == (2, "") and f"error: --json {given}" in result.stderr
        assert reason in result.stderr and {path: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_an_object_that_answers_twice_is_refused(tmp_path, vqav2_files):
    (tmp_path / "p.json").write_text('{"5": "b", "6": "c", "5": "c"}')
    result = run("vqav2", *vqav2_files, "--predictions", tmp_path / "p.json")
    assert result.returncode == 2 and "answers 1 questions more than once (question ids 5)" in result.stderr
    for odd in ([{"5": "b"}], [{}], [{"5": "b", "6": "c", "7": "d"}]):
        result = run("vqav2", *vqav2_files, "--predictions", write(tmp_path / "o.json", odd), "--allow-missing")
        assert "Traceback" not in result.stderr and result.returncode in (0, 2)
    chunk = write(tmp_path / "all.json", {"1": gqa_question("yes")})
    flags = ("--questions", tmp_path, "--predictions", tmp_path / "p.json", "--json", chunk)
    assert "is a file that is read" in run("gqa", *flags).stderr
    wrapped = write(tmp_path / "w.json", {"results": [{"question_id": 5, "answer": "b"}]})
    result = run("vqav2", *vqav2_files, "--predictions", wrapped)
    assert result.returncode == 2 and "w.json holds its predictions under 'results': give that list" in result.stderr
