"""Which questions cannot be trained on: found before the run, listed in RUN/quarantine.jsonl, left out of every step.

What texts and files tell is judged here, before the language model is loaded: a `bad` record never becomes a question
of the mixture. Questions of the mixture that show to be of no use later are `left_out`: number -> why. What only the
tokenizer tells, is judged by `Questions.check`, before the first step of every start; those questions leave the steps
that were scheduled, and an empty step is none (`steps_without`). That an image cannot be decoded shows before the run
or in it, as features are cached or live. Such questions leave their step when it comes, and the number of steps stays.
So the order is the same on every rank, and on resume, when the list of the start is read again.
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
    unreadable = _unreadable_files(sets)
    listed = _listed_at_start(listing) if goes_on else []
    kept: list[list[Part]] = []
    bad: list[dict] = []
    seen = 0
    for parts in sets:
        kept.append([])
        for part in parts:
            seen += len(part) + len(part.bad)
            known = [line for line in listed if Path(line.get("set", line["shard"])).name == Path(part.name).name]
            good, lines = _judged(part, unreadable, known)
            kept[-1].append(good)
            bad += lines
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


def _judged(part: Part, unreadable: Mapping[Picture, str], known: Sequence[dict]) -> tuple[Part, list[dict]]:
    """The questions to train on, and quarantine.jsonl's lines for the others. known: those of an earlier start."""
    if isinstance(part, Listed):
        return _judged_listed(part, unreadable, known)
    without_image = _without_image(part, unreadable)
    numbers = part.record_numbers(without_image)
    lines = [_record(part.name, number, part[at], why) for number, (at, why) in zip(numbers, without_image.items())]
    told = {line["index"] for line in part.bad} | set(numbers)
    lines += [line for line in known if line["index"] not in told]
    return part.without({line["index"] for line in lines}), [*part.bad, *lines]


def _judged_listed(part: Listed, unreadable: Mapping[Picture, str], known: Sequence[dict]) -> tuple[Listed, list[dict]]:
    """As `_judged`. By id: the place among those that can be used is another one as soon as a record is mended."""
    bad = {line["key"]: line for line in part.bad}
    there = bad.keys() | {sample.question_id for sample in part}
    bad |= {line["key"]: line for line in known if line["key"] in there}  # as it was listed: once
    for index, sample in enumerate(part):
        if sample.question_id in bad:
            continue
        if reason := _text_problem(sample) or next((unreadable[i] for i in sample.images if i in unreadable), ""):
            bad[sample.question_id] = _record(part.name, index, sample, reason)
    good = Listed((sample for sample in part if sample.question_id not in bad), part.name)
    return good, list(bad.values())


def record_of_report(source: str, key: str, file: Path, index: int, bad: BadRecord) -> dict:
    """The line of quarantine.jsonl for a conversation that cannot be used.

    source: what --conversations names. key: the id that the conversation would have. index: in `file`, from 0 on.
    """
    line = {"shard": str(file), "set": source, "index": index, "key": key}
    return {**line, "reason": bad.kind, "detail": f"{file}, record {index}: {bad}"}


def _listed_at_start(file: Path) -> list[dict]:
    """The lines of what was known before the model was loaded."""
    return [line for line in read_jsonl(file) if "position" not in line] if file.is_file() else []


def _without_image(part: Stored, unreadable: Mapping[Picture, str]) -> dict[int, str]:
    """Questions of `part` whose image is unreadable: index -> reason."""
    if not unreadable:
        return {}
    reasons = {number: unreadable[picture] for number, picture in enumerate(part.pictures) if picture in unreadable}
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


def _unreadable_files(sets: Sequence[Sequence[Part]]) -> dict[Picture, str]:
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


def steps_without(steps: Iterable[Step], left_out: Mapping[int, str]) -> list[Step]:
    """The steps without the questions `left_out`; a step that loses all of them goes."""
    if not left_out:
        return list(steps)
    steps = list(steps)
    check_some_left(steps, left_out)
    return [left for left in (without(step, left_out) for step in steps) if left]


def check_some_left(steps: Iterable[Step], left_out: Mapping[int, str]) -> None:
    """Raise a UserError if every scheduled question is `left_out`."""
    if all(index in left_out for step in steps for index in indices(step)):
        words = ", ".join(f"{count} x {reason}" for reason, count in Counter(left_out.values()).most_common())
        raise UserError(f"no question can be trained on: {words}; repair the data, or change what stands in its way")


def records_of(mixture: Mixture, left_out: Mapping[int, str]) -> list[dict]:
    """Lines of quarantine.jsonl for questions of the mixture; "position" is a question's number there."""
    records = []
    for index, reason in sorted(left_out.items()):
        name, number = mixture.place(index)
        records.append(_record(name, number, mixture.examples[index], reason) | {"position": index})
    return records


def questions_about(mixture: Mixture, steps: Iterable[Step], unreadable: Mapping[Picture, str]) -> dict[int, str]:
    """The scheduled questions that show one of these pictures: index -> what is wrong with it."""
    if not unreadable:
        return {}
    left_out: dict[int, str] = {}
    for index in {index for step in steps for index in indices(step)}:
        for picture in mixture.examples[index].images:
            if picture in unreadable:
                left_out[index] = unreadable[picture]
    return left_out
