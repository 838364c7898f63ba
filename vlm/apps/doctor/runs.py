"""Is the folder of a training run whole: settings, records, checkpoints, and what it made?"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm.apps.doctor.findings import Finding, Findings, attempt
from vlm.apps.doctor.models import encoder_findings, vlm_findings
from vlm.files import read_json
from vlm.llava.folder import is_llava
from vlm.run.checkpoints import damage
from vlm.run.folder import DONE
from vlm.run.steps import committed_steps

MARKS = ("metrics.jsonl", "checkpoints")


def is_run(path: Path) -> bool:
    """Whether a folder has what every run leaves, or what a finished one made."""
    made = is_llava(path / "vlm") or (path / "encoder/vision_encoder.safetensors").exists()
    return path.is_dir() and (made or any((path / mark).exists() for mark in MARKS))


def findings(run: Path, images: Sequence[str] = ()) -> Findings:
    """All checks of a run; those of its encoder or VLM come last."""
    settings: dict[str, Any] = {}
    if (run / "config.json").is_file():
        yield from attempt("settings", lambda: _settings(run, settings))
    else:
        yield Finding("warn", "settings", f"there is no {run}/config.json: the run cannot go on")
    yield from attempt("records", lambda: _records(run, settings.get("steps")))
    yield from attempt("checkpoints", lambda: _checkpoints(run))
    if (run / "quarantine.jsonl").exists():
        yield from attempt("quarantine", lambda: _quarantine(run / "quarantine.jsonl"))
    encoder, vlm = run / "encoder", run / "vlm"
    if encoder.is_dir():
        yield from encoder_findings(str(encoder))
    if vlm.is_dir():
        yield from vlm_findings(vlm, images)
    if not encoder.is_dir() and not vlm.is_dir():
        yield Finding("warn", "result", "there is neither encoder/ nor vlm/: start the run again, and it goes on")
    yield from attempt("end", lambda: _end(run))


def _end(run: Path) -> Findings:
    if (run / DONE).is_file():
        yield Finding("OK", "end", f"done at step {read_json(run / DONE)['step']}")
    else:
        yield Finding("warn", "end", f"there is no {DONE}: the run is not at its end; start it again, and it goes on")


def _settings(run: Path, settings: dict[str, Any]) -> Findings:
    settings |= read_json(run / "config.json")
    shown = ("preset", "objective", "llm", "encoder", "data", "steps", "batch_size", "seed")
    said = ", ".join(f"{name} {settings[name]}" for name in shown if settings.get(name) is not None)
    yield Finding("OK", "settings", said or f"{len(settings)} values")


def _records(run: Path, steps: int | None) -> Findings:
    """The last record: how far the run is, and whether its loss is a number."""
    file = run / "metrics.jsonl"
    lines = [line for line in file.read_text().splitlines() if line.strip()] if file.exists() else []
    if not lines:
        yield Finding("warn", "records", "there is no metrics.jsonl with a step: the run has not begun")
        return
    torn = sum(not _is_json(line) for line in lines)
    records = [json.loads(line) for line in lines if _is_json(line)]
    # A bridge step that broken images have emptied has no loss, which says nothing of --lr.
    taught = [record for record in records if record.get("answer_tokens") != 0]
    losses = [record["loss"] for record in taught if isinstance(record.get("loss"), (int, float))]
    last = max((record["step"] for record in records if isinstance(record.get("step"), int)), default=None)
    text = f"{len(records)} up to step {last}" + (f" of {steps}" if steps else "")
    if losses:
        text += f", loss {losses[0]:.4g} -> {losses[-1]:.4g}"
    if losses and not math.isfinite(losses[-1]):
        yield Finding("FAIL", "records", f"{text}: the loss is no number any more; lower --lr")
    elif torn:
        yield Finding("warn", "records", f"{text}; {torn} lines are torn, as a kill leaves them: they are passed over")
    else:
        yield Finding("OK", "records", text)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _checkpoints(run: Path) -> Findings:
    """Sizes and hashes of each checkpoint against its manifest."""
    folder = run / "checkpoints"
    steps = committed_steps(folder)
    problems = {step: damage(folder / f"step_{step}") for step in steps}
    whole = [step for step in steps if problems[step] is None]
    for step in steps:
        if problem := problems[step]:
            advice = f"a run goes on from step {whole[-1]}" if whole else "give another --out to start anew"
            yield Finding("warn" if whole else "FAIL", "checkpoints", f"{problem}: {advice}")
    if whole:
        yield Finding("OK", "checkpoints", f"whole by their hashes: step {', '.join(map(str, whole))}")
    elif not steps:
        yield Finding("warn", "checkpoints", "there are none: a run that stops now starts from the beginning")
    for litter in sorted(folder.glob("*.tmp")) + sorted(folder.glob("*.damaged")):
        yield Finding("warn", "checkpoints", f"{litter} is left of a run that was stopped: it may be deleted")


def _quarantine(file: Path) -> Findings:
    """How many samples could not be used, and the most frequent reasons."""
    records = [json.loads(line) for line in file.read_text().splitlines() if _is_json(line)]
    reasons = Counter(str(record.get("reason", "unknown")) for record in records).most_common(3)
    said = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    if records:
        yield Finding("warn", "quarantine", f"{len(records)} samples could not be used, mostly {said}: see {file}")
    else:
        yield Finding("OK", "quarantine", "every sample could be used")
