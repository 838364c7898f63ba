"""Answer GQA, VQAv2 and POPE with a saved VLM, score the answers by the official rules, write results.json.

In OUT: predictions/*.jsonl (append-only: run again after a kill and it goes on), the benchmarks' own submission files,
per_question/*.json, results.json, details.txt (scores by type of question); with --baseline also results.md and
results.png.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bridge import details, results
from bridge.answering import Asker, plan, shuffled
from bridge.benchmarks import (
    TITLES,
    Benchmark,
    caption_of,
    headline,
    read_captions,
    read_gqa,
    read_pope,
    read_vqav2,
    score,
    submissions,
)
from bridge.config import WORLD
from bridge.predictions import Predictions, discard
from vlm.checkpoint import file_sha256
from vlm.errors import UserError, run_command
from vlm.llm import default_dtype
from vlm.logs import progress, write_json
from vlm.model import load

EXAMPLES = """examples:
  python bridge/evaluate.py runs/bridge --gqa world/gqa --vqav2 world/vqav2 --pope world/pope
  python bridge/evaluate.py runs/bridge/vlm --gqa gqa --gqa-split testdev --baseline random=runs/random/eval
  python bridge/evaluate.py runs/bridge --vqav2 vqav2 --vqav2-split test-dev2015      submission file for EvalAI
  python bridge/evaluate.py runs/bridge --pope world/pope --oracle world/captions.json --out runs/bridge/oracle"""


def main() -> None:
    args = _parser().parse_args()
    folder, out = _folders(args)
    benchmarks = _benchmarks(args)
    baselines = results.read_rows(args.baseline)
    captions = _captions(args.oracle, benchmarks)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, None: default_dtype(args.device)}[args.precision]
    origin = {
        "model": folder_digest(folder),
        "dtype": _name(dtype),
        "max_new_tokens": args.max_new_tokens,
        "sees": _sees(args),
        **({"captions": file_sha256(args.oracle)} if args.oracle else {}),
    }
    if args.overwrite:
        for name in TITLES:
            discard(out / "predictions" / f"{name}.jsonl")
    files = {
        b.name: Predictions(
            out / "predictions" / f"{b.name}.jsonl",
            {**origin, "split": b.split},
            {example.question_id: example.question for example in b.examples},
        )
        for b in benchmarks
    }
    vlm = load(folder, args.device, dtype)
    report = {
        "model": str(folder),
        "dtype": _name(vlm.model.dtype),
        "sees": _sees(args),
        "mode": args.mode,
        "max_new_tokens": args.max_new_tokens,
        "limit_images": args.limit_images,
        "benchmarks": {},
    }
    for benchmark in benchmarks:
        asker = Asker(vlm, args.max_new_tokens, args.blind, captions)
        if args.shuffle_images:
            asker.show = shuffled(list(dict.fromkeys(example.image for example in benchmark.examples)))
        timing = answer(asker, benchmark, files[benchmark.name], args.batch_questions)
        report["benchmarks"][benchmark.name] = _finish(benchmark, asker, files[benchmark.name], timing, args.mode, out)
    report["summary"] = results.summary({n: entry["headline"] for n, entry in report["benchmarks"].items()})
    write_json(out / "results.json", report)
    _print_tables(out, baselines, report, benchmarks)


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
    for name, text in submissions(benchmark, file.answers).items():
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
        "images": len({example.image for example in benchmark.examples}),
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


def _folders(args: argparse.Namespace) -> tuple[Path, Path]:
    """The VLM's folder, given itself or as RUN, and where results go: RUN/eval by default."""
    given = Path(args.vlm)
    folder = given / "vlm" if (given / "vlm" / "config.json").is_file() else given
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{given} is no saved VLM: it or its folder vlm/ needs a config.json, as bridge/train.py saves it"
        )
    return folder, Path(args.out) if args.out else folder.parent / "eval"


def _benchmarks(args: argparse.Namespace) -> list[Benchmark]:
    gqa, vqav2, pope, vqav2_split = args.gqa, args.vqav2, args.pope, args.vqav2_split or "val2014"
    if not (gqa or vqav2 or pope):
        if not WORLD.is_dir():
            raise UserError(
                f"no benchmark given and the embedded world {WORLD} does not exist: give --gqa DIR, --vqav2 DIR or "
                f"--pope DIR, or run `python scripts/make_world.py {WORLD}`"
            )
        print(f"no benchmark given: the held-out scenes of the embedded world in {WORLD}", file=sys.stderr)
        gqa, vqav2, pope = WORLD / "gqa", WORLD / "vqav2", WORLD / "pope"
        vqav2_split = args.vqav2_split or "test-dev2015"
    readers: list[Callable[[], Benchmark]] = []
    if gqa:
        readers.append(lambda: read_gqa(gqa, args.gqa_split))
    if vqav2:
        readers.append(lambda: read_vqav2(vqav2, vqav2_split))
    if pope:
        readers.append(lambda: read_pope(pope))
    return [read().first_images(args.limit_images) for read in readers]


def _captions(file: str | None, benchmarks: list[Benchmark]) -> Callable[[Path], str] | None:
    """The oracle's image -> caption, checked for every image before any work starts."""
    if file is None:
        return None
    captions, root = read_captions(file), Path(file).parent
    images = {example.image for benchmark in benchmarks for example in benchmark.examples}
    return {image: caption_of(image, captions, root) for image in images}.__getitem__


def _sees(args: argparse.Namespace) -> str:
    """What the LLM is given beside the question."""
    chosen = [args.blind, args.oracle is not None, args.shuffle_images]
    if sum(chosen) > 1:
        raise UserError("--blind, --oracle and --shuffle-images exclude each other; give one of them")
    return (
        "nothing" if args.blind else "captions" if args.oracle else "other images" if args.shuffle_images else "images"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; give cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device here; give cpu")
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bridge/evaluate.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("vlm", metavar="RUN/vlm", help="folder saved by bridge/train.py, or its RUN")
    add("--gqa", metavar="DIR", help="folder with {split}_balanced_questions.json and images/")
    add("--vqav2", metavar="DIR", help="folder with the official question and annotation files and val2014/")
    add("--pope", metavar="DIR", help="folder with coco_pope_{random,popular,adversarial}.json and val2014/")
    add("--gqa-split", default="testdev", help="train, val, testdev (balanced), or val_all and the like")
    add("--vqav2-split", help="val2014 (default), test-dev2015, ...; without annotations: submission file only")
    add("--out", metavar="DIR", help="default RUN/eval")
    add("--limit-images", type=_positive, metavar="N", help="only the questions about each benchmark's first N images")
    add("--max-new-tokens", type=_positive, default=16, metavar="N")
    add("--mode", choices=("official", "lmms"), default="official", help="official scores or lmms-eval's")
    add("--blind", action="store_true", help="control: the bare question, without any image slot")
    add("--oracle", metavar="FILE", help="captions.json: the true caption as text in the image's place")
    add("--shuffle-images", action="store_true", help="control: every question is shown another question's image")
    add("--baseline", action="append", default=[], metavar="NAME=DIR", help="another run's eval folder to compare with")
    add("--batch-questions", type=_positive, default=64, metavar="N", help="questions decoded together")
    add("--precision", choices=("fp32", "bf16"), help="[bf16 where the device is fast at it; fp32: ties cannot flip]")
    add("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    add("--overwrite", action="store_true", help="discard the predictions in OUT and start anew")
    return parser


if __name__ == "__main__":
    run_command(main)
