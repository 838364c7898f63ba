"""The files that the benchmarks' own servers and scripts take."""

import json
from collections.abc import Mapping

from bridge.data import official
from bridge.evaluation.benchmarks import Benchmark
from bridge.scoring import gqa as gqa_scoring
from bridge.scoring import vqav2 as vqav2_scoring


def submissions(benchmark: Benchmark, answers: Mapping[str, str], mode: str = "official") -> dict[str, str]:
    """File name -> content in the official result formats; a question without an answer gets an empty one.

    VQAv2 and GQA answers are what `score` scores: in official mode converted as LLaVA converts them, in lmms mode as
    they were given, stripped. POPE's official script reads an empty answer as yes, so those lines say
    `"answered": false`.

    The servers refuse a file that lacks a question. VQAv2's wants all of test2015, also for test-dev (LLaVA's
    convert_vqav2_for_submission.py); GQA's all of submission_all_questions.json, whatever phase it is sent to.
    """
    if benchmark.name == "pope":
        return _pope_submissions(benchmark, answers)
    as_llava = gqa_scoring.process_as_llava if benchmark.name == "gqa" else vqav2_scoring.process_as_llava
    form = as_llava if mode == "official" else str.strip
    rows: list[dict] = []
    for key in _submitted(benchmark):
        answer = form(answers.get(key, ""))
        if benchmark.name == "gqa":
            rows.append({"questionId": key, "prediction": answer})
        else:
            rows.append({"question_id": _as_number(key), "answer": answer})
    kind = "predictions" if benchmark.name == "gqa" else "results"
    return {f"{benchmark.name}_{benchmark.split}_{kind}.json": json.dumps(rows, ensure_ascii=False)}


def _submitted(benchmark: Benchmark) -> list[str]:
    """The question ids that the server wants, in its file's order, and behind them those asked that it lacks."""
    asked = [example.question_id for example in benchmark.examples]
    if benchmark.submitted is None:
        return asked
    if benchmark.name == "gqa":
        wanted = official.gqa_ids(benchmark.submitted)
    else:
        wanted = list(official.vqav2_records(benchmark.submitted, "questions"))
    return list(dict.fromkeys([*wanted, *asked]))


def _pope_submissions(benchmark: Benchmark, answers: Mapping[str, str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for example in benchmark.examples:
        category, question_id = example.question_id.split("/", 1)
        answer = answers.get(example.question_id, "")
        row = {"question": example.question, "answer": answer, "question_id": _as_number(question_id)}
        if example.question_id not in answers:
            row["answered"] = False
        name = f"pope_{category}_answers.json"
        files[name] = files.get(name, "") + json.dumps(row, ensure_ascii=False) + "\n"
    return files


def _as_number(question_id: str) -> int | str:
    """VQAv2 and POPE write their ids as numbers."""
    return int(question_id) if question_id.isdecimal() else question_id
