"""Which questions cannot be trained on: found before the run, listed in RUN/quarantine.jsonl, left out of every step.

What texts and files tell is judged here, before the language model is loaded. What only its tokenizer tells, is judged
by `Questions.check`, before the first step of every start; those questions leave the steps that were scheduled, and an
empty step is none (`left_out`). That an image cannot be decoded shows before the run or in it, as features are cached
or live. Such questions leave their step when it comes, and the number of steps stays. So the order is the same on every
rank, and on resume, when the list of the start is read again.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bridge.data.conversations import BadRecord
from bridge.data.example import Example, Sample
from bridge.data.mixture import Listed, Mixture
from bridge.data.pictures import Picture
from bridge.data.schedule import Step, indices, without
from bridge.data.stored import Stored
from vlm.errors import UserError
from vlm.files import read_jsonl
from vlm.run.quarantine import Quarantine, refuse_above

# Image headers are read before the run if there are no more. To open 100,000 files takes minutes on a network disk, and
# computing the features opens each of them anyway.
MOST_HEADERS = 20_000
Part = Stored | Listed


def settled(
    sets: Sequence[Sequence[Part]], ratio: float, listing: Path, goes_on: bool = False, planned: bool = False
) -> Mixture:
    """Leave out what cannot be trained on, and lay the rest end to end.

    listing: RUN/quarantine.jsonl, to which rank 0 adds what is too much. goes_on: it lists what an earlier start of
    this run left out, which stays out. planned: no run begins, so that nothing is written.

    Raises: UserError if nothing is left, or more than `ratio` of all questions, and at least 20, are left out.
    """
    headers = _judged_headers(sets)
    listed = _listed_at_start(listing) if goes_on else []
    kept: list[list[Part]] = []
    bad: list[dict] = []
    seen = 0
    for parts in sets:
        kept.append([])
        for part in parts:
            seen += len(part) + len(part.bad)
            known = [line for line in listed if Path(line.get("set", line["shard"])).name == Path(part.name).name]
            good, refused = _judged(part, headers, known)
            kept[-1].append(good)
            bad += refused
    reasons = Counter(record["reason"] for record in bad)
    if not any(len(part) for parts in kept for part in parts):
        raise UserError(_nothing_left(bad, reasons))
    if planned:
        refuse_above(ratio, seen, reasons, "the {} questions", "without --plan they are listed; repair the data")
        return Mixture.of(kept, bad)
    try:
        refuse_above(ratio, seen, reasons, "the {} questions")
    except UserError:
        if os.environ.get("RANK", "0") == "0":  # the message names the list; every rank finds the same
            Quarantine(listing, 0).add(bad)
        raise
    return Mixture.of(kept, bad)


def _judged(part: Part, headers: Mapping[Picture, str], known: Sequence[dict]) -> tuple[Part, list[dict]]:
    """The questions to train on, and the records of the others. known: those that an earlier start left out."""
    if isinstance(part, Listed):
        return _judged_listed(part, headers, known)
    name, refused = part.name, {bad["index"] for bad in part.bad}
    wrong = _wrong_images(part, headers)
    numbers = part.record_numbers(wrong)
    records = [_record(name, number, part[index], wrong[index]) for number, index in zip(numbers, wrong)]
    refused.update(numbers)
    records += [line for line in known if line["index"] not in refused]
    return part.without({record["index"] for record in records}), [*part.bad, *records]


def _judged_listed(part: Listed, headers: Mapping[Picture, str], known: Sequence[dict]) -> tuple[Listed, list[dict]]:
    """As `_judged`. By id: the place among those that can be used is another one as soon as a record is mended."""
    refused = {line["key"]: line for line in part.bad}
    there = refused.keys() | {sample.question_id for sample in part}
    refused |= {line["key"]: line for line in known if line["key"] in there}  # as it was listed: once
    for index, sample in enumerate(part):
        if sample.question_id in refused:
            continue
        if reason := _text_problem(sample) or next((headers[i] for i in sample.images if i in headers), ""):
            refused[sample.question_id] = _record(part.name, index, sample, reason)
    good = Listed((sample for sample in part if sample.question_id not in refused), part.name)
    return good, list(refused.values())


def record_of_report(source: str, key: str, file: Path, index: int, bad: BadRecord) -> dict:
    """The line of quarantine.jsonl for a conversation that cannot be used.

    source: what --conversations names. key: the id that the conversation would have. index: in `file`, from 0 on.
    """
    line = {"shard": str(file), "set": source, "index": index, "key": key}
    return {**line, "reason": bad.kind, "detail": f"{file}, record {index}: {bad}"}


def _listed_at_start(file: Path) -> list[dict]:
    """The lines of what was known before the model was loaded."""
    return [line for line in read_jsonl(file) if "position" not in line] if file.is_file() else []


def _wrong_images(part: Stored, headers: Mapping[Picture, str]) -> dict[int, str]:
    """Questions of `part` whose image has a problem: index -> reason."""
    if not headers:
        return {}
    reasons = {number: headers[picture] for number, picture in enumerate(part.pictures) if picture in headers}
    return {index: reasons[number] for index, number in enumerate(part.image_numbers.tolist()) if number in reasons}


def _record(name: str, index: int, sample: Sample, reason: str) -> dict:
    """A line of quarantine.jsonl. index: of the sample's record in the file `name`."""
    record = {"shard": name, "index": index, "key": sample.question_id, "reason": reason}
    return record | ({"image": str(sample.images[0])} if sample.images else {})


def _text_problem(sample: Sample) -> str:
    turns = ((sample.question, sample.answer or ""),) if isinstance(sample, Example) else sample.turns
    for question, answer in turns:
        if not question.strip():
            return "empty question"
        if not answer.strip():
            return "empty answer"
    return ""


def _judged_headers(sets: Sequence[Sequence[Part]]) -> dict[Picture, str]:
    """Image files that their header or their absence rules out -> why."""
    from vlm.images import ImageError, check_header  # torch

    pictures: dict[Picture, None] = {}
    for parts in sets:
        for part in parts:
            found = part.used_pictures() if isinstance(part, Stored) else (i for sample in part for i in sample.images)
            pictures.update(dict.fromkeys(found))
    files = [picture for picture in pictures if isinstance(picture, Path)]
    if len(files) > MOST_HEADERS:
        return {}

    def reason(file: Path) -> str:
        try:
            check_header(file)
        except ImageError as error:
            return error.reason
        except FileNotFoundError:
            return "missing image"
        except OSError as error:
            return f"unreadable image ({error.strerror})"
        return ""

    with ThreadPoolExecutor(16) as pool:
        return {file: why for file, why in zip(files, pool.map(reason, files)) if why}


def _nothing_left(bad: Sequence[dict], reasons: Counter) -> str:
    first = f"{bad[0]['shard']}, question {bad[0]['key']}" if bad else "none was found"
    if set(reasons) == {"no answer"}:
        return (
            f"{len(bad)} training questions have no answer, the first: {bad[0]['key']}; "
            "train on a split whose answers are public and whose annotation file is beside the questions"
        )
    words = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    return f"no question can be trained on: {words or 'the files are empty'}; the first: {first}; repair the data"


def left_out(steps: Iterable[Step], bad: Mapping[int, str]) -> list[Step]:
    """The steps without the questions `bad` (index into the mixture -> why); a step that loses all of them goes."""
    if not bad:
        return list(steps)
    steps = list(steps)
    check_some_left(steps, bad)
    return [left for left in (without(step, bad) for step in steps) if left]


def check_some_left(steps: Iterable[Step], bad: Mapping[int, str]) -> None:
    """Raise a UserError if every scheduled question is `bad` (index into the mixture -> why)."""
    if all(index in bad for step in steps for index in indices(step)):
        words = ", ".join(f"{count} x {reason}" for reason, count in Counter(bad.values()).most_common())
        raise UserError(f"no question can be trained on: {words}; repair the data, or change what stands in its way")


def records_of(mixture: Mixture, reasons: Mapping[int, str]) -> list[dict]:
    """Lines of quarantine.jsonl for questions of the mixture, number -> reason; a line's "position" is that number."""
    records = []
    for index, reason in sorted(reasons.items()):
        name, number = mixture.place(index)
        records.append(_record(name, number, mixture.examples[index], reason) | {"position": index})
    return records


def questions_about(mixture: Mixture, steps: Iterable[Step], unreadable: Mapping[Picture, str]) -> dict[int, str]:
    """The scheduled questions that show one of these pictures: index -> what is wrong with it."""
    if not unreadable:
        return {}
    wrong: dict[int, str] = {}
    for index in {index for step in steps for index in indices(step)}:
        for picture in mixture.examples[index].images:
            if picture in unreadable:
                wrong[index] = unreadable[picture]
    return wrong
