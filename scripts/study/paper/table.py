"""The paper's table: gains of a pretrained encoder over the same ViT with random weights, from pairs of runs."""

import statistics
from collections.abc import Sequence

from bridge.evaluation.benchmarks import TITLES
from bridge.scoring.gains import compared, gain
from study.paper.runs import RANDOM, Run, differences
from vlm.errors import UserError
from vlm.files import read_json

OBJECTIVES = ("levljepa", "clip", "siglip")
NAMES = {"levljepa": "LeVLJEPA", "levljepa-plus": "LeVLJEPA+", "clip": "CLIP", "siglip": "SigLIP"}
# Gains as published (arXiv 2607.00784): frozen ViT-B/16 and LLM, points over a random ViT; GQA, VQAv2, POPE.
REPORTED = {
    "Llama-1B": {"levljepa": (8.2, 11.0, 17.3), "clip": (6.3, 8.4, 16.2), "siglip": (6.0, 6.0, 12.4)},
    "Qwen-1.5B": {"levljepa": (6.7, 10.5, 22.6), "clip": (5.2, 5.8, 19.1), "siglip": (4.6, 4.1, 18.0)},
}
# Encoders that are compared should agree in these settings of their training.
SHARED = ("steps", "batch_size", "lr", "warmup_steps", "schedule", "weight_decay", "image_size", "patch_size")
SHARED += ("vision_width", "vision_layers", "vision_heads")


def make_table(runs: Sequence[Run], reported: bool) -> dict:
    """{"objectives", "llms", "cells", "no_runs", "unpaired", "notes"}.

    A cell is one LLM, benchmark and objective: the gain in points, a mean over seeds with their standard deviation, or
    of one seed with the 95 % interval of a paired bootstrap over images; and its pairs. reported: the paper's beside.
    """
    pairs, unpaired = _pairs(runs)
    found = dict.fromkeys(run.objective for run in runs if run.objective != RANDOM)
    objectives = [*OBJECTIVES, *(name for name in found if name not in OBJECTIVES)]
    llms = list(dict.fromkeys([*(REPORTED if reported else ()), *(run.llm for run in runs)]))
    cells = []
    for llm in llms:
        for number, benchmark in enumerate(TITLES):
            for objective in objectives:
                chosen = [pair for pair in pairs if (pair[0].llm, pair[0].objective) == (llm, objective)]
                cell = {"llm": llm, "benchmark": benchmark, "objective": objective, **_cell(chosen, benchmark)}
                if reported:
                    cell["reported"] = REPORTED.get(llm, {}).get(objective, (None,) * 3)[number]
                cells.append(cell)
    remarks = {"no_runs": _no_runs(cells), "unpaired": unpaired, "notes": _notes(runs)}
    return {"objectives": objectives, "llms": llms, "cells": cells, **remarks}


def _no_runs(cells: Sequence[dict]) -> list[str]:
    """ "CLIP with Qwen-1.5B", or "... on POPE" if other benchmarks have runs."""
    gains: dict[tuple[str, str], dict[str, float | None]] = {}
    for cell in cells:
        gains.setdefault((cell["objective"], cell["llm"]), {})[TITLES[cell["benchmark"]]] = cell["gain"]
    lines = []
    for (objective, llm), row in gains.items():
        lacking = [title for title, gain in row.items() if gain is None]
        where = "" if len(lacking) == len(row) else f" on {' and '.join(lacking)}"
        lines += [f"{NAMES.get(objective, objective)} with {llm}{where}"] if lacking else []
    return lines


def _pairs(runs: Sequence[Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Each pretrained run with the random run that differs in the encoder's weights alone; and what has none, why."""
    pairs: list[tuple[Run, Run]] = []
    unpaired = []
    randoms = [run for run in runs if run.objective == RANDOM]
    for run in (run for run in runs if run.objective != RANDOM):
        near = [(differences(run, other), other) for other in randoms if other.llm == run.llm]
        fitting = [other for differing, other in near if not differing]
        if len(fitting) > 1:
            raise UserError(f"{run.folder} has two random runs, {fitting[0].folder} and {fitting[1].folder}: give one")
        if fitting:
            pairs.append((run, fitting[0]))
        elif near:
            differing, closest = min(near, key=lambda pair: len(pair[0]))
            unpaired.append(f"{run.folder}: its closest random run {closest.folder} differs in {', '.join(differing)}")
        else:
            unpaired.append(f"{run.folder}: no random run with {run.llm}; train one with --encoder random:DIR")
    _check_cells(pairs)
    return pairs, unpaired


def _check_cells(pairs: Sequence[tuple[Run, Run]]) -> None:
    """Check that the runs of one cell differ in the seed, and in nothing else."""
    first: dict[tuple[str, str], Run] = {}
    seeds: dict[tuple[str, str, int], Run] = {}
    for run, _ in pairs:
        cell = (run.llm, run.objective)
        other = first.setdefault(cell, run)
        differing = [text for text in differences(run, other) if not text.startswith("seed ")]
        if differing:
            raise UserError(
                f"{run.folder} and {other.folder} belong to the same cell ({run.objective} with {run.llm}) and differ "
                f"in {', '.join(differing)}: give runs of one setting"
            )
        twin = seeds.setdefault((*cell, run.seed), run)
        if twin is not run:
            raise UserError(f"{run.folder} and {twin.folder} are both {run.objective} with {run.llm}, seed {run.seed}")


def _cell(pairs: Sequence[tuple[Run, Run]], benchmark: str) -> dict:
    """One cell's gain, and the scored pairs that it is made of."""
    scored, intervals = [], []
    for run, other in sorted(pairs, key=lambda pair: pair[0].seed):
        score, random_score = (each.report["summary"][benchmark] for each in (run, other))
        if score is None or random_score is None:
            continue
        partial = any(each.report["benchmarks"][benchmark]["partial"] for each in (run, other))
        found = {"score": score, "random_score": random_score, "partial": partial}
        scored.append({"seed": run.seed, "run": str(run.folder), "random_run": str(other.folder), **found})
        intervals.append(_interval(run, other, benchmark))
    if not scored:
        return {"gain": None, "pairs": []}
    gains = [entry["score"] - entry["random_score"] for entry in scored]
    cell = {"gain": round(statistics.mean(gains), 2), "pairs": scored}
    if len(gains) > 1:
        return {**cell, "deviation": round(statistics.stdev(gains), 2)}
    return {**cell, "low": round(intervals[0]["low"], 2), "high": round(intervals[0]["high"], 2)}


def _interval(run: Run, other: Run, benchmark: str) -> dict:
    """The gain of a run over another with its 95 % interval."""
    after, before = (read_json(r.scores / "per_question" / f"{benchmark}.json") for r in (run, other))
    try:
        return gain({benchmark: compared(after, before)})
    except UserError as error:
        raise UserError(f"{TITLES[benchmark]} of {run.folder} and {other.folder}: {error}") from None


def _notes(runs: Sequence[Run]) -> list[str]:
    """Settings in which the encoders' own training differs: then not the objectives alone are compared."""
    encoders = [run for run in runs if run.objective != RANDOM]
    notes = []
    for name in SHARED:
        values = {}
        for run in encoders:
            if name in run.training:
                values.setdefault(str(run.training[name]), run.objective)
        if len(values) > 1:
            listed = ", ".join(f"{value} ({objective})" for value, objective in values.items())
            notes.append(f"the encoders were trained with different {name}: {listed}")
    return notes
