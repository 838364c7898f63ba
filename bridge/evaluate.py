"""Answer GQA, VQAv2 and POPE with a saved VLM, score the answers by the official rules, write results.json.

In OUT: predictions/*.jsonl (append-only: run again after a kill and it goes on), the benchmarks' own submission files,
per_question/*.json, results.json, details.txt (scores by type of question); with --baseline also results.md and
results.png. Under torchrun or `accelerate launch` the processes share the questions, one GPU each.
"""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

from bridge import results
from bridge.evaluation import details
from bridge.evaluation.batching import shuffled
from bridge.evaluation.benchmarks import TITLES, Benchmark, headline, score
from bridge.evaluation.captions import captions_by_image
from bridge.evaluation.predictions import answers_origin, open_predictions
from bridge.evaluation.settings import EvaluateConfig, chosen_benchmarks, parse_config, run_folders
from bridge.evaluation.submissions import submissions
from bridge.evaluation.team import Team, joined_team
from vlm.errors import UserError, run_command
from vlm.files import read_json, write_file, write_json


def main() -> None:
    with joined_team() as team:
        evaluate(team)


def evaluate(team: Team) -> None:
    """The command, on each of the processes; rank 0 alone scores, writes and prints."""
    config = team.main(lambda: parse_config(__doc__))
    team.minutes = config.timeout
    folder, out = team.main(lambda: run_folders(config))
    team.main(lambda: results.check_place(out, evaluation=True))
    benchmarks = team.all(lambda: chosen_benchmarks(config))
    team.main(lambda: results.check_comparable(results.read_rows(config.baseline), config.mode, benchmarks))
    captions = None
    if config.oracle is not None:
        images = [image for benchmark in benchmarks for image in benchmark.images]
        captions = team.all(lambda: captions_by_image(config.oracle, images))
    to_shuffle = benchmarks if config.shuffle_images else []
    shown = {each.name: team.all(partial(shuffled, each.images)) for each in to_shuffle}
    # torch and transformers take seconds to import: what was given is judged before.
    from transformers.utils.logging import disable_progress_bar

    from bridge.evaluation.answering import Asker, answer
    from vlm.llava.model import load
    from vlm.llms.precision import check_place, chosen_device, chosen_dtype
    from vlm.run.folder import locked
    from vlm.run.signals import keeping

    if team.rank:
        disable_progress_bar()  # rank 0 shows how far the loading is
    device = team.all(lambda: chosen_device(config.device, team.local_rank))
    team.all(lambda: check_place(config.load_in, config.device, device))
    dtype = chosen_dtype(config.precision, device)
    origin = team.main(lambda: answers_origin(config, folder, _name(dtype)))
    again = "the same command without --overwrite" if config.overwrite else "the same command"
    with locked(out), keeping(f"the answers so far are in {out / 'predictions'}, {again} goes on from there"):
        predictions = None if config.overwrite else open_predictions(out, benchmarks, origin, team)
        vlm = team.all(lambda: load(folder, device, dtype, config.load_in))
        settings = {name: getattr(config, name) for name in ("sees", "mode", "max_new_tokens", "limit_images")}
        head = {"model": str(folder), "dtype": _name(vlm.model.dtype), **settings, "origin": origin}
        # Before the first score is written: a run that stops between two benchmarks leaves no old numbers beside new.
        team.main(lambda: _forget_outdated(out, head, benchmarks, config.overwrite))
        if predictions is None:  # --overwrite gives no answers up for a model that cannot be loaded
            predictions = open_predictions(out, benchmarks, origin, team, anew=True)
        entries = {}
        for benchmark in benchmarks:
            asker = Asker(vlm, config.max_new_tokens, config.blind, captions, shown.get(benchmark.name))
            own = predictions[benchmark.name]
            outcome = answer(asker, benchmark, own, config.batch_questions, team)
            scored = partial(_score, benchmark, own.answers, outcome, config.mode, out)
            entries[benchmark.name] = team.main(scored)
        team.main(lambda: _finish(config, head, out, entries, benchmarks))


def _finish(config: EvaluateConfig, head: dict, out: Path, entries: dict, benchmarks: list[Benchmark]) -> None:
    report = _report(head, out, {**_earlier(out / "results.json", head), **entries})
    _print_tables(out, results.read_rows(config.baseline), report, benchmarks)


def _name(dtype: object) -> str:
    """torch.float32 -> "float32" """
    return str(dtype).removeprefix("torch.")


def _score(benchmark: Benchmark, answers: dict[str, str], outcome: dict, mode: str, out: Path) -> dict:
    """Score the answers and write the benchmark's own files. Returns its entry of results.json."""
    title = TITLES[benchmark.name]
    if not answers:
        reason = next(iter([*outcome["bad_images"].values(), *outcome["bad_questions"].values()]))
        raise UserError(f"{title}: not one question could be answered, the first because of {reason}")
    if lost := len(benchmark.examples) - len(answers):
        print(
            f"warning: {title} is partial: {_what_was_lost(outcome)}, "
            f"{lost} of {len(benchmark.examples)} questions count as wrong; listed in {out / 'results.json'}",
            file=sys.stderr,
        )
    for name, text in submissions(benchmark, answers, mode).items():
        write_file(out / name, text)
    scores = score(benchmark, answers, mode)
    if scores is not None:
        images = {example.question_id: example.image.name for example in benchmark.examples}
        per_question = {"scores": scores.pop("per_question"), "images": images}
        write_json(out / "per_question" / f"{benchmark.name}.json", per_question)
    return {
        "split": benchmark.split,
        "data": benchmark.data,
        "note": benchmark.note,
        "questions": len(benchmark.examples),
        "images": len(benchmark.images),
        "partial": lost > 0,
        "unanswered": lost,
        **outcome,
        "headline": headline(benchmark.name, scores),
        **({"accuracy_and_f1": results.pope_headline(scores)} if benchmark.name == "pope" else {}),
        "scores": scores,
    }


def _what_was_lost(outcome: dict) -> str:
    """{"bad_images": {}, "bad_questions": {"7": "empty text"}} -> "1 questions cannot be asked (1 x empty text)" """
    words = []
    if images := len(outcome["bad_images"]):
        words.append(f"{images} images could not be read")
    if outcome["bad_questions"]:
        reasons = Counter(outcome["bad_questions"].values()).most_common()
        kinds = ", ".join(f"{count} x {reason}" for reason, count in reasons)
        words.append(f"{len(outcome['bad_questions'])} questions cannot be asked ({kinds})")
    return ", ".join(words)


def _report(head: dict, out: Path, entries: dict[str, dict]) -> dict:
    """Write results.json. head: what all of its benchmarks were answered and scored with."""
    summary = results.summary({name: entry["headline"] for name, entry in entries.items()})
    report = {**head, "benchmarks": {name: entries[name] for name in TITLES if name in entries}, "summary": summary}
    write_json(out / "results.json", report)
    return report


def _forget_outdated(out: Path, head: dict, benchmarks: list[Benchmark], overwrite: bool) -> None:
    """Take scores of the benchmarks to come out of results.json: those of other questions, with `overwrite` all."""
    entries = _earlier(out / "results.json", head)
    kept = dict(entries)
    for benchmark in benchmarks:
        asked = {"split": benchmark.split, "questions": len(benchmark.examples), "images": len(benchmark.images)}
        entry = entries.get(benchmark.name, asked)
        if overwrite or any(entry.get(name) != value for name, value in asked.items()):
            kept.pop(benchmark.name, None)
    if not kept:
        (out / "results.json").unlink(missing_ok=True)
    elif kept != entries:
        _report(head, out, kept)


def _earlier(file: Path, head: dict) -> dict[str, dict]:
    """The benchmarks that another call scored into the same results.json, if all that `head` says was the same.

    Else the file goes, for it does not belong to these answers.
    """
    old = read_json(file) if file.is_file() else None
    if not isinstance(old, dict):
        return {}
    if differ := [name for name in head if name != "model" and old.get(name) != head[name]]:
        names = ", ".join(TITLES[name] for name in old.get("benchmarks", {}))
        print(f"{file} held scores of another run ({names}; {', '.join(differ)} differ): replaced", file=sys.stderr)
        file.unlink()
        return {}
    return old["benchmarks"]


def _print_tables(out: Path, baselines: dict[str, Path], report: dict, benchmarks: list[Benchmark]) -> None:
    """The headline table beside the baselines, then scores by type: briefly here, all of them in details.txt."""
    table = results.compare({"this": out, **baselines})
    if baselines:
        compared = {name: table["rows"][name] for name in baselines}
        write_json(out / "results.json", {**report, "baselines": compared, "gains": table["gains"]})
        results.write(table, out)
    else:  # a table of before is of other numbers
        for name in ("results.md", "results.png"):
            (out / name).unlink(missing_ok=True)
    scored = {name: entry["scores"] for name, entry in report["benchmarks"].items() if entry["scores"] is not None}
    tables = [details.as_text(details.rows(name, scores)) + "\n" for name, scores in scored.items()]
    write_file(out / "details.txt", "\n".join(tables))  # before a reader of the output, such as head, may end it
    print(results.as_text(table))
    for name, scores in scored.items():
        print("\n".join(details.brief(name, scores)))
    for benchmark in benchmarks:
        if benchmark.note:
            print(benchmark.note)
    print(f"written: {out / 'results.json'}, every type in {out / 'details.txt'}")


if __name__ == "__main__":
    run_command(main)
