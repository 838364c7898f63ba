"""Answer GQA, VQAv2 and POPE with a saved VLM, score the answers by the official rules, write results.json.

In OUT: predictions/*.jsonl (append-only: run again after a kill and it goes on), the benchmarks' own submission files,
per_question/*.json, results.json, details.txt (scores by type of question); with --baseline also results.md and
results.png.
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path

import torch

from bridge import results
from bridge.evaluation import details
from bridge.evaluation.answering import Asker, plan, shuffled
from bridge.evaluation.benchmarks import TITLES, Benchmark, headline, score, submissions
from bridge.evaluation.predictions import Predictions, discard
from bridge.evaluation.settings import captions_of, chosen_benchmarks, make_parser, run_folders, what_it_sees
from bridge.scoring.joining import few
from vlm.errors import UserError, run_command, writing
from vlm.files import file_sha256, read_json, write_json
from vlm.llava.model import VLM, load
from vlm.llms.precision import default_dtype
from vlm.run.folder import locked
from vlm.run.progress import progress


def main() -> None:
    args = make_parser(__doc__).parse_args()
    folder, out = run_folders(args)
    benchmarks = chosen_benchmarks(args)
    baselines = results.read_rows(args.baseline)
    results.check_comparable(baselines, args.mode, benchmarks)
    captions = captions_of(args.oracle, benchmarks)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, None: default_dtype(args.device)}[args.precision]
    origin = _origin(args, folder, dtype)
    with locked(out):
        files = None if args.overwrite else _open_predictions(out, benchmarks, origin)
        vlm = load(folder, args.device, dtype, args.load_in)
        check_questions(vlm, benchmarks)
        if files is None:  # only now: what is there is not given up for a model that cannot be loaded
            for benchmark in benchmarks:
                discard(_predictions_file(out, benchmark))
            files = _open_predictions(out, benchmarks, origin)
        report = _report(args, folder, vlm, origin)
        entries = {}
        for benchmark in benchmarks:
            asker = Asker(vlm, args.max_new_tokens, args.blind, captions)
            if args.shuffle_images:
                asker.show = shuffled(_images(benchmark))
            timing = answer(asker, benchmark, files[benchmark.name], args.batch_questions)
            entries[benchmark.name] = _finish(benchmark, asker, files[benchmark.name], timing, args.mode, out)
        entries = {**_earlier(out, report), **entries}
        report["benchmarks"] = {name: entries[name] for name in TITLES if name in entries}
        report["summary"] = results.summary({n: entry["headline"] for n, entry in entries.items()})
        write_json(out / "results.json", report)
        _print_tables(out, baselines, report, benchmarks)


def _origin(args: argparse.Namespace, folder: Path, dtype: torch.dtype) -> dict:
    """What answers depend on. batch_questions: which questions are decoded together rounds them differently."""
    return {
        "model": folder_digest(folder),
        "dtype": _name(dtype),
        "max_new_tokens": args.max_new_tokens,
        "batch_questions": args.batch_questions,
        "sees": what_it_sees(args),
        **({"captions": file_sha256(args.oracle)} if args.oracle else {}),
        **({"load_in": args.load_in} if args.load_in else {}),
    }


def _predictions_file(out: Path, benchmark: Benchmark) -> Path:
    return out / "predictions" / f"{benchmark.name}.jsonl"


def _open_predictions(out: Path, benchmarks: list[Benchmark], origin: dict) -> dict[str, Predictions]:
    """Each benchmark's answers so far; UserError where they are of another origin."""
    files = {}
    for benchmark in benchmarks:
        own = {**origin, "split": benchmark.split}
        if origin["sees"] == "other images":  # which one is shown depends on all of them
            own["shown"] = hashlib.sha256("\n".join(path.name for path in _images(benchmark)).encode()).hexdigest()
        questions = {example.question_id: example.question for example in benchmark.examples}
        files[benchmark.name] = Predictions(_predictions_file(out, benchmark), own, questions)
    return files


def _images(benchmark: Benchmark) -> list[Path]:
    return list(dict.fromkeys(example.image for example in benchmark.examples))


def _report(args: argparse.Namespace, folder: Path, vlm: VLM, origin: dict) -> dict:
    """The head of results.json: what all of its benchmarks were answered and scored with."""
    return {
        "model": str(folder),
        "dtype": _name(vlm.model.dtype),
        "sees": origin["sees"],
        "mode": args.mode,
        "max_new_tokens": args.max_new_tokens,
        "limit_images": args.limit_images,
        "origin": origin,
    }


def _earlier(out: Path, report: dict) -> dict[str, dict]:
    """The benchmarks that another call scored into the same results.json, with all that `report` says the same."""
    file = out / "results.json"
    if not file.is_file():
        return {}
    old = read_json(file)
    if not isinstance(old, dict):
        return {}
    differ = [name for name in report if name != "model" and old.get(name) != report[name]]
    if differ:
        names = ", ".join(TITLES[name] for name in old.get("benchmarks", {}))
        print(f"{file} held scores of another run ({names}; {', '.join(differ)} differ): replaced", file=sys.stderr)
        return {}
    return old["benchmarks"]


def check_questions(vlm: VLM, benchmarks: list[Benchmark]) -> None:
    """UserError naming the questions that no prompt may hold: empty ones, or with the model's control tokens."""
    for benchmark in benchmarks:
        bad = [example.question_id for example in benchmark.examples if not vlm.prompts.allows(example.question)]
        if bad:
            raise UserError(
                f"{len(bad)} questions of {TITLES[benchmark.name]} are empty or hold control tokens of this model "
                f"(question ids {few(bad)}): correct the questions file or leave them out"
            )


def answer(asker: Asker, benchmark: Benchmark, file: Predictions, batch_questions: int) -> dict:
    """Answer what `file` does not hold yet, appending batch by batch. Returns how many questions took how long."""
    images = {example.question_id: example.image for example in benchmark.examples}
    already = len(file.answers)
    bar = progress(len(benchmark.examples), TITLES[benchmark.name], "q", initial=already)
    batches = [
        batch
        for batch in plan(benchmark.examples, batch_questions, asker.blind)
        if not all(key in file.answers for unit in batch for ids in unit.ids for key in ids)
    ]
    start = time.perf_counter()
    for answered in asker.answers(batches):
        records = [
            {"question_id": key, "image": images[key].name, "question": question, "answer": text}
            for unit, answers in answered
            for ids, question, text in zip(unit.ids, unit.questions, answers)
            for key in ids
            if key not in file.answers
        ]
        file.append(records)
        bar.update(len(records))
    bar.close()
    seconds, count = time.perf_counter() - start, len(file.answers) - already
    rate = round(count / seconds, 2) if count else None
    return {"answered_now": count, "seconds": round(seconds, 2), "questions_per_s": rate}


def _finish(benchmark: Benchmark, asker: Asker, file: Predictions, timing: dict, mode: str, out: Path) -> dict:
    """Score, write the submission and per-question files, and say what is partial. The entry of results.json."""
    if not file.answers:
        reason = next(iter(asker.bad.values()))
        raise UserError(f"{TITLES[benchmark.name]}: not one question could be answered, the first because of {reason}")
    for name, text in submissions(benchmark, file.answers).items():
        with writing(out / name):
            (out / name).write_text(text, encoding="utf-8")
    scores = score(benchmark, file.answers, mode)
    lost = len(benchmark.examples) - len(file.answers)
    if lost:
        print(
            f"warning: {TITLES[benchmark.name]} is partial: {len(asker.bad)} images could not be read, "
            f"{lost} of {len(benchmark.examples)} questions count as wrong; listed in {out / 'results.json'}",
            file=sys.stderr,
        )
    if scores is not None:
        images = {example.question_id: example.image.name for example in benchmark.examples}
        per_question = {"scores": scores.pop("per_question"), "images": images}
        write_json(out / "per_question" / f"{benchmark.name}.json", per_question)
    return {
        "split": benchmark.split,
        "note": benchmark.note,
        "questions": len(benchmark.examples),
        "images": len(_images(benchmark)),
        "partial": lost > 0,
        "unanswered": lost,
        "bad_images": asker.bad,
        **timing,
        "headline": headline(benchmark.name, scores),
        "scores": scores,
    }


def _print_tables(out: Path, baselines: dict[str, Path], report: dict, benchmarks: list[Benchmark]) -> None:
    """The headline table beside the baselines, then scores by type: briefly here, all of them in details.txt."""
    rows = {"this": out, **baselines}
    table = results.compare(rows)
    if baselines:
        report["baselines"] = {name: table["rows"][name] for name in baselines}
        report["gains"] = table["gains"]
        write_json(out / "results.json", report)
        results.write(table, out)
    print(results.as_text(table))
    scored = {name: entry["scores"] for name, entry in report["benchmarks"].items() if entry["scores"] is not None}
    lines = [line for name, scores in scored.items() for line in details.brief(name, scores)]
    for line in [*lines, *(benchmark.note for benchmark in benchmarks if benchmark.note)]:
        print(line)
    tables = [details.as_text(details.rows(name, scores)) + "\n" for name, scores in scored.items()]
    with writing(out / "details.txt"):
        (out / "details.txt").write_text("\n".join(tables), encoding="utf-8")
    print(f"written: {out / 'results.json'}, every type in {out / 'details.txt'}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a saved VLM's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    run_command(main)
