"""The numbers of a study: scores by row and seed, gains over a reference row, and how sure they are."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge.evaluation.benchmarks import TITLES
from bridge.scoring.gains import compared, gain
from study.budgets import budget
from study.cells import SECOND, Cell, Encoder, bridge_name, cells, encoders, probes_file
from study.lanes import record
from study.settings import StudySettings
from vlm.errors import UserError
from vlm.files import read_json

COLUMNS = (*TITLES, "mean")
SECOND_STAGE = ", second stage"  # behind a row's name
# Student's t, 97.5 %, of 1 to 9 degrees of freedom. Beyond, Fisher's expansion from the normal quantile is within .003.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Scores = dict[str, float]  # question id -> points, 0 to 100


def rows(settings: StudySettings) -> dict[str, dict[int, Path]]:
    """Row of the table, an encoder with an LLM -> seed -> folder of its evaluation; of those that are done."""
    planned, found = cells(settings), {}
    for llm in settings.llms:
        for stage in ("", SECOND) if settings.second_stage else ("",):
            for encoder in encoders(settings):
                name = row_name(settings, encoder, llm, stage)
                for seed in settings.seeds:
                    cell = planned[bridge_name(encoder, llm, seed) + stage]
                    if record_of(settings, cell):
                        found.setdefault(name, {})[seed] = cell.product.parent
    return found


def record_of(settings: StudySettings, cell: Cell) -> dict | None:
    return record(Path(settings.out), cell)


def left_out(settings: StudySettings) -> list[str]:
    """Cells whose scores lie there, but are of other settings than these."""
    return [
        name
        for name, cell in cells(settings).items()
        if cell.product.name == "results.json" and cell.product.is_file() and not record_of(settings, cell)
    ]


def row_name(settings: StudySettings, encoder: str, llm: str, stage: str = "") -> str:
    with_llm = f"{encoder}, {Path(llm).name}" if len(settings.llms) > 1 else encoder
    return with_llm + (SECOND_STAGE if stage else "")


def references(settings: StudySettings) -> dict[str, str]:
    """Row -> the row that its gain is measured from: of the same LLM and stage.

    That is --reference; else the encoder's own twin with random weights, the first twin of the study, blind, or the
    first encoder. A twin is itself compared with blind.
    Raises: UserError if --reference names no encoder of the study.
    """
    known = encoders(settings)
    if settings.reference is not None and settings.reference not in known:
        raise UserError(f"--reference {settings.reference}: give one of {', '.join(known)}")
    found = {}
    for encoder in known.values():
        other = settings.reference or _base(encoder, known)
        for llm in settings.llms if other != encoder.name else ():
            for stage in ("", SECOND):
                found[row_name(settings, encoder.name, llm, stage)] = row_name(settings, other, llm, stage)
    return found


def _base(encoder: Encoder, known: Mapping[str, Encoder]) -> str:
    """What an encoder is compared with unless the user says so."""
    twins = {other.what: name for name, other in known.items() if other.kind == "random"}
    blind = next((name for name, other in known.items() if other.kind == "blind"), None)
    if encoder.name in twins:
        return twins[encoder.name]
    if encoder.kind == "random":
        return blind or encoder.name
    return next(iter(twins.values()), blind or next(iter(known)))


def summarise(settings: StudySettings) -> dict:
    """{"rows": {row: {"seeds": {seed: numbers}, "mean": ..., "sd": ...}}, "gains": {row: {"over", benchmark: gain}}}.

    Also "llms", and "asked": {benchmark: {"split", "questions", "images"}}, what all rows are scored on,
    and "budgets": {row: words}, what each is made of as its first seed says.
    numbers: percent by benchmark and their mean. A gain is in points, a mean over "of_seeds", the seeds that both rows
    have, with two 95 % intervals: over images (bootstrap of the questions' scores, averaged over seeds) and, of two
    seeds or more, over seeds (Student's t of the gain of each seed).
    """
    folders = rows(settings)
    table: dict = {
        "llms": [Path(llm).name for llm in settings.llms],
        "asked": {},
        "rows": {},
        "budgets": {},
        "gains": {},
    }
    for name, of_seeds in folders.items():
        reports = {seed: read_json(folder / "results.json") for seed, folder in of_seeds.items()}
        seeds = _alike({seed: report["summary"] for seed, report in reports.items()})
        partial = [
            key
            for key in TITLES
            if any(report["benchmarks"].get(key, {}).get("partial") for report in reports.values())
        ]
        table["rows"][name] = {"seeds": seeds, **_spread(list(seeds.values())), "partial": partial}
        for report in reports.values():
            table["asked"] = {**_asked(report), **table["asked"]}
        if words := budget(next(iter(of_seeds.values())).parent):
            table["budgets"][name] = words
    over = references(settings)
    for name in folders:  # in the order of the rows
        if (other := over.get(name)) in folders:
            shared = [seed for seed in folders[name] if seed in folders[other]]
            if shared:
                pairs = [(folders[name][seed], folders[other][seed]) for seed in shared]
                table["gains"][name] = {"over": other, "of_seeds": shared, **_gains(pairs)}
    return table


def _asked(report: Mapping) -> dict[str, dict]:
    """Benchmark -> the split, questions and images that an evaluation had."""
    wanted = ("split", "questions", "images")
    known = {key: entry for key in TITLES if (entry := report["benchmarks"].get(key)) and entry.keys() >= set(wanted)}
    return {key: {name: entry[name] for name in wanted} for key, entry in known.items()}


def _alike(summaries: Mapping[int, Mapping[str, float | None]]) -> dict[int, dict[str, float]]:
    """Seed -> its numbers in the benchmarks that all seeds have, and the mean of those: else means of different
    benchmarks would be averaged.
    """
    shared = [key for key in TITLES if all(numbers.get(key) is not None for numbers in summaries.values())]
    found = {}
    for seed, numbers in summaries.items():
        known = {key: value for key in shared if (value := numbers[key]) is not None}
        found[seed] = {**known, "mean": statistics.mean(known.values())} if known else {}
    return found


def _spread(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, and standard deviation (n - 1) of two seeds or more, of every number."""
    values = {key: [numbers[key] for numbers in seeds] for key in seeds[0]}
    found = {"mean": {key: statistics.mean(each) for key, each in values.items()}}
    if len(seeds) > 1:
        found["sd"] = {key: statistics.stdev(each) for key, each in values.items()}
    return found


def _gains(pairs: Sequence[tuple[Path, Path]]) -> dict[str, dict]:
    """The gain in each benchmark that all folders have, and in their mean."""
    found: dict[str, dict] = {}
    by_seed: dict[str, list[float]] = defaultdict(list)
    both = {}
    for name in TITLES:
        files = [[folder / "per_question" / f"{name}.json" for folder in pair] for pair in pairs]
        summaries = [[read_json(folder / "results.json")["summary"].get(name) for folder in pair] for pair in pairs]
        if any(number is None for pair in summaries for number in pair):
            continue
        if lacking := [file for pair in files for file in pair if not file.is_file()]:
            raise UserError(f"{lacking[0]} is missing: delete {lacking[0].parents[1]}/results.json and call this again")
        after, before = (
            {"scores": _averaged([pair[side] for pair in files]), "images": read_json(files[0][side])["images"]}
            for side in (0, 1)
        )
        try:
            both[name] = compared(after, before)
            interval = gain({name: both[name]})
        except UserError as error:
            raise UserError(f"{TITLES[name]} of {pairs[0][0]} and {pairs[0][1]}: {error}") from None
        by_seed[name] = [ours - theirs for ours, theirs in summaries]
        found[name] = {**_gain(by_seed[name]), "images": [interval["low"], interval["high"]]}
    if by_seed:
        interval = gain(both)
        means = _gain([statistics.mean(gains) for gains in zip(*by_seed.values())])
        found["mean"] = {**means, "images": [interval["low"], interval["high"]]}
    return found


def _averaged(files: Sequence[Path]) -> Scores:
    """Every question's score, averaged over the files of several seeds."""
    seeds = [read_json(file)["scores"] for file in files]
    if any(scores.keys() != seeds[0].keys() for scores in seeds):
        raise UserError(f"{files[0]} and {files[-1]} are not over the same questions: evaluate them alike")
    return {key: statistics.fmean(scores[key] for scores in seeds) for key in seeds[0]}


def _gain(gains: Sequence[float]) -> dict:
    found: dict = {"gain": statistics.mean(gains), "by_seed": list(gains)}
    if len(gains) > 1:
        half = _t_975(len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
        found["seeds"] = [found["gain"] - half, found["gain"] + half]
    return found


def _t_975(freedom: int) -> float:
    return T_975[freedom - 1] if freedom <= len(T_975) else 1.95996 + 2.37227 / freedom + 2.82250 / freedom**2


def probes(settings: StudySettings) -> dict[str, dict[str, dict[str, float]]]:
    """Probe -> encoder -> mean and standard deviation of its number over the seeds that are done."""
    planned = cells(settings)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for encoder in encoders(settings):
        files = [probes_file(settings, encoder, seed) for seed in settings.seeds]
        done = [file for file in files if (cell := planned.get(f"probes-{file.stem}")) and record_of(settings, cell)]
        measured = [read_json(file) for file in done]
        for name in measured[0] if measured else ():
            values = [numbers[name] for numbers in measured]
            sd = {"sd": statistics.stdev(values)} if len(values) > 1 else {}
            found.setdefault(name, {})[encoder] = {"mean": statistics.mean(values), **sd}
    return found
