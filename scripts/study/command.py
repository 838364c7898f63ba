"""scripts/study.py: list, run or hand over the cells of a study, then write its tables."""

import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from study.cells import Cell, cells, encoders, uses_world
from study.checks import check
from study.lanes import record, run_all, run_logged
from study.settings import StudySettings
from study.slurm import REPORT, submit
from vlm.cores import cores
from vlm.errors import UserError
from vlm.files import write_file, write_json


def run(settings: StudySettings) -> None:
    """Raises: UserError if the settings name what there is not, or a cell failed."""
    settings = replace(settings, out=str(Path(settings.out).resolve()), world=str(Path(settings.world).resolve()))
    out, planned = Path(settings.out), cells(settings)
    check(settings, planned)
    if unknown := [name for name in settings.only if name not in planned and name != REPORT]:
        raise UserError(f"--only {unknown[0]}: the cells are {', '.join(planned)}, and {REPORT}")
    wanted = [cell for name, cell in planned.items() if not settings.only or name in settings.only]
    missing = [cell for cell in wanted if record(out, cell) is None]
    if missing:
        from study.places import check_places  # imports transformers, which a report does not need

        check_places(settings, missing)
    _refuse_without_needs(settings, missing, planned)
    if settings.dry_run:
        print(priced(out, planned, wanted, lanes=len(_lanes(settings))))
        return
    if missing and uses_world(settings) and not (Path(settings.world) / "world.json").exists():
        print(f"drawing {settings.world}", flush=True)
        run_logged(out / "logs" / "world.log", ("scripts/make_world.py", settings.world))
    if settings.slurm:
        submit(settings, missing)
        return
    try:
        if missing:
            print(f"{len(missing)} of {len(wanted)} cells to run; their output: {out / 'logs'}", flush=True)
            run_all(out, missing, _lanes(settings), lambda text: print(text, flush=True))
    except UserError:  # what is done is shown nevertheless, and no mistake there hides this one
        if not settings.only:
            try:
                report(settings)
            except UserError as error:
                print(f"no report: {error}", flush=True)
        raise
    if not settings.only or REPORT in settings.only:
        report(settings)


def _refuse_without_needs(settings: StudySettings, missing: Sequence[Cell], planned: Mapping[str, Cell]) -> None:
    """Raises: UserError if --only names a cell without one that it is made from, and that is not done."""
    for cell in missing:
        for name in cell.needs:
            if planned[name] not in missing and record(Path(settings.out), planned[name]) is None:
                raise UserError(
                    f"--only {cell.name}: {name} is not done, which it needs: name it as well, or run it first"
                )


def _lanes(settings: StudySettings) -> list[dict[str, str]]:
    """The environment of each lane: a GPU each, or a core."""
    import torch

    gpus = torch.cuda.device_count()
    mine = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]  # the user's choice
    names = mine if len(mine) == gpus else [str(number) for number in range(gpus)]
    count = settings.lanes or gpus or len(cores())
    return [{"CUDA_VISIBLE_DEVICES": names[number % gpus]} if gpus else {} for number in range(count)]


def priced(out: Path, planned: Mapping[str, Cell], wanted: Sequence[Cell], lanes: int) -> str:
    """The wanted cells with what they need, and the time that each took or, by finished ones of its kind, will take."""
    done = {name: found["seconds"] for name, cell in planned.items() if (found := record(out, cell))}
    kinds: dict[str, list[float]] = {}
    for name, seconds in done.items():
        kinds.setdefault(planned[name].kind, []).append(seconds)
    lines, left, unmeasured = [], 0.0, 0
    for cell in wanted:
        known = kinds.get(cell.kind)
        if cell.name in done:
            time = f"done, {done[cell.name]:.0f} s"
        elif known:
            time = f"about {statistics.mean(known):.0f} s"
            left += statistics.mean(known)
        else:
            time, unmeasured = "not measured yet", unmeasured + 1
        lines.append(f"{cell.name:<44} {time}" + (f", after {', '.join(cell.needs)}" if cell.needs else ""))
        lines += [f"    python {shlex.join(command)}" for command in cell.commands]
    missing = sum(cell.name not in done for cell in wanted)
    total = f"{missing} of {len(wanted)} cells to run in {lanes} lanes"
    if left:
        total += f": about {left / 60 / lanes:.0f} min"
    if unmeasured:
        total += f"; {unmeasured} of a kind that was not run here yet: one cell by --only measures it"
    return "\n".join([*lines, total])


def report(settings: StudySettings) -> None:
    """Write study.md, .json, .png, .html and the paper's table from what is done, and print the table."""
    from study.page import write_page
    from study.summary import left_out, probes, row_name, summarise
    from study.tables import as_markdown, save_picture

    out, table, probed = Path(settings.out), summarise(settings), probes(settings)
    if others := left_out(settings):
        print(f"left out, for they were cut off, or run with other settings or models than these: {', '.join(others)}")
    if not table["rows"]:
        older = f"; {out / 'study.html'} and the files beside it are of before" if (out / "study.html").exists() else ""
        print(f"nothing is scored yet{older}")
        return
    kept = {
        name: value for name, value in asdict(settings).items() if name not in ("dry_run", "only", "slurm", "study")
    }
    write_json(out / "study.json", {"settings": kept, **table, "probes": probed})
    text = as_markdown(table, probed)
    write_file(out / "study.md", text)
    save_picture(table, out / "study.png")
    write_page(settings, table, probed, kept, out / "study.html")
    print("\n" + text)
    twins = [each.name for each in encoders(settings).values() if each.kind == "random"]
    if any(row_name(settings, twin, llm) in table["rows"] for twin in twins for llm in settings.llms):
        _paper_table(settings)
    print(f"written: {out / 'study.html'}, study.md, .json and .png")


def _paper_table(settings: StudySettings) -> None:
    """Print and write the paper's table of gains over random weights, where the study has what belongs into it."""
    from study.paper.output import write_table
    from study.paper.runs import read_runs
    from study.paper.table import make_table
    from study.summary import rows

    folders = [folder.parent for of_seeds in rows(settings).values() for folder in of_seeds.values()]
    try:
        runs, left_out = read_runs(folders, "eval")
        table = make_table(runs, reported=False)
    except UserError as error:
        print(f"the paper's table is of one run an objective and of objectives alone, so there is none here: {error}")
        return
    print(write_table({**table, "left_out": left_out}, Path(settings.out)))
