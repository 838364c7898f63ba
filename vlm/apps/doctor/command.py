"""What `vlm doctor` is asked about, and how it answers."""

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

from vlm.apps.doctor.findings import Finding, Findings
from vlm.apps.doctor.labels import show_labels
from vlm.apps.settings import DoctorSettings
from vlm.apps.status import Status
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError
from vlm.hub import is_hub_id, model_folder
from vlm.integrity import MANIFEST
from vlm.llava.folder import FILES, is_llava

QUESTION, ANSWER = "What color is the car?", "red"  # of labels
FAILED = 1  # the exit code if a check failed


def doctor(settings: DoctorSettings) -> int:
    """Print a line for each finding, or with --json one object; returns the exit code.

    Raises: UserError if there is no such folder or file.
    """
    *labels, what = settings.what or ("",)
    _check_flags(settings, bool(labels))
    if labels:
        question = QUESTION if settings.question is None else settings.question
        show_labels(what, question, ANSWER if settings.answer is None else settings.answer)
        return 0
    kind, findings = _examined(what, settings)
    if settings.image and kind not in ("VLM", "run"):
        raise UserError(f"--image is what a VLM is asked about, and this is of the kind {kind}: leave it out")
    found: list[Finding] = []
    while finding := _next(findings, kind):
        found.append(finding)
        if not settings.json:
            print(finding.line(), flush=True)
    counts = Counter(finding.level for finding in found)
    if settings.json:
        checks = [{"level": each.level.lower(), "name": each.name, "text": each.text} for each in found]
        status = "fail" if counts["FAIL"] else "warn" if counts["warn"] else "ok"
        print(json.dumps({"what": what or None, "kind": kind, "status": status, "checks": checks}))
    return FAILED if counts["FAIL"] else 0


def _check_flags(settings: DoctorSettings, labels: bool) -> None:
    """Raise a UserError for a flag that would do nothing. labels: whether `labels DIR` is asked for."""
    others = {"--json": settings.json, "--accept": settings.accept, "--image": bool(settings.image)}
    own = {"--question": settings.question is not None, "--answer": settings.answer is not None}
    if unused := [flag for flag, given in (others if labels else own).items() if given]:
        place = "not of `vlm doctor labels`" if labels else "of `vlm doctor labels DIR` alone"
        raise UserError(f"{unused[0]} is {place}: leave it out")
    if settings.accept and not settings.what:
        raise UserError("--accept records the files of one folder: give its DIR")


def _next(findings: Findings, kind: str) -> Finding | None:
    with Status(f"checking the {kind}"):
        return next(findings, None)


def _examined(what: str, settings: DoctorSettings) -> tuple[str, Findings]:
    """The kind of thing that `what` is, and its findings as they are made."""
    from vlm.apps.doctor import data, environment, models, runs

    if settings.accept:
        first = models.accepted(Path(what))
        kind, findings = _examined(what, replace(settings, accept=False))
        return kind, chain([first], findings)
    if not what:
        return "environment", environment.findings()
    path, named = Path(what), parse_encoder(what)
    if named.kind != "levljepa" or named.random:
        return "encoder", models.encoder_findings(what)
    others = "give a VLM, encoder, export, run or data folder, or nothing for the environment"
    if not path.exists() and is_hub_id(what):
        path = model_folder(what, FILES, others)
    if not path.exists():
        raise UserError(f"there is no {what}: {others}")
    recorded = path.is_dir() and os.path.lexists(path / MANIFEST)
    if path.is_dir() and _is_llava(path, recorded):
        return "VLM", models.vlm_findings(path, settings.image)
    if (path / "vision_encoder.safetensors").exists():
        return "encoder", models.encoder_findings(what)
    if runs.is_run(path):
        return "run", runs.findings(path, settings.image)
    if recorded:  # also what is left of a damaged VLM or encoder
        return "export", models.export_findings(path)
    return "data", data.findings(path)


def _is_llava(path: Path, recorded: bool) -> bool:
    """Whether it is a VLM. recorded: it has a manifest, which tells it if config.json cannot be read."""
    try:
        return is_llava(path)
    except UserError:
        if not recorded:
            raise
        return False
