"""Conversations as token ids without rendering them: frames by form, and which of their ids are learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vlm.llms.forms import TEXT, Shaped, Talk, shaped, with_texts
from vlm.llms.frames import Frame, Framer, Read, Reads

KEPT_FORMS = 1024  # forms of conversations whose frames are kept


class Lesson(NamedTuple):
    """Ids of a conversation, and the stretches ids[start:end] of it that are learnt: answers and the ends of turns."""

    ids: list[int]
    learnt: tuple[tuple[int, int], ...]


def one_sequence(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of a conversation's answers as one, if each goes on behind the one before."""
    whole = lessons[-1].ids
    if any(lesson.ids != whole[: len(lesson.ids)] for lesson in lessons):
        return list(lessons)
    return [Lesson(whole, tuple(stretch for lesson in lessons for stretch in lesson.learnt))]


class Taught(NamedTuple):
    """Where a turn's answer is in the frame of a whole conversation.

    segment: the number of the one that ends with it. opening: the ids of that segment that still belong to the prompt.
    behind: how many ids behind the segment are learnt. Take the frame of `vlm.llms.frames`, which is

        ids[0]       <|im_start|> user \\n <|image_pad|>
        segments[0]  \\n{}
        ids[1]       <|im_end|> \\n <|im_start|>
        segments[1]  assistant\\n{}
        ids[2]       <|im_end|> \\n

    The answer is the {} of segments[1]. The prompt ends with "assistant\\n", whose ids are the opening. Learnt are the
    segment's other ids and one behind it: <|im_end|>, which ends the answer. So this is Taught(1, opening, 1).
    """

    segment: int
    opening: tuple[int, ...]
    behind: int


Course = list[Taught]  # of a form: where the answer of each of its turns is


class Frames:
    """The frames of one template and tokenizer, made when they are first needed."""

    def __init__(
        self,
        template: str,
        own: Sequence[str],
        dropped: str,
        framer: Framer,
        render: Callable[[Talk], str],
        tail: Callable[[], list[int]],
    ):
        """own: the parts of `template` that are this project's, whose reading of texts `shaped` knows: the first must
        be there. dropped: what `shaped` takes off questions. tail: gives the ids behind an answer.
        """
        self._framer, self._render, self._tail, self._dropped = framer, render, tail, dropped
        foreign = template
        for part in own:
            foreign = foreign.replace(part, "")
        self._reads = Reads.of(foreign) if own[0] in template and framer.usable else None
        self._frames: dict[Talk, Frame | None] = {}
        self._courses: dict[Talk, Course | None] = {}

    def ids(self, talks: Sequence[Talk]) -> list[Read | None]:
        """The ids of conversations; None for one that must be rendered."""
        return self._read([self._shaped(talk) for talk in talks])

    def _read(self, shapes: Sequence[Shaped | None]) -> list[Read | None]:
        asked = []
        for number, shape in enumerate(shapes):
            if shape is not None and (frame := self._frame(shape.form)) is not None:
                asked.append((number, (frame, shape)))
        found: list[Read | None] = [None] * len(shapes)
        reads = self._framer.ids_of([(frame, shape.texts) for _, (frame, shape) in asked]) if asked else []
        for (number, _), read in zip(asked, reads):
            found[number] = read
        return found

    def lessons(self, talks: Sequence[Talk]) -> list[list[Lesson] | None]:
        """What is learnt of conversations, each one lesson; None for one whose answers must be looked at singly."""
        shapes = [self._shaped(talk) for talk in talks]
        courses = [None if shape is None else self._course(shape.form) for shape in shapes]
        reads = self._read([shape if course is not None else None for shape, course in zip(shapes, courses)])
        found: list[list[Lesson] | None] = []
        for read, course in zip(reads, courses):
            lesson = None if read is None or course is None else _lesson(read, course)
            found.append(None if lesson is None else [lesson])
        return found

    def _shaped(self, talk: Talk) -> Shaped | None:
        """Form and texts, if the template does nothing with these texts but write them down."""
        if self._reads is None or (shape := shaped(talk, self._dropped)) is None:
            return None
        if any(map(self._reads.found_in, shape.texts)):
            return None
        try:
            "".join(shape.texts).encode()
        except UnicodeEncodeError:  # half of a character: where it is rendered, the user is told
            return None
        return shape

    def _frame(self, form: Talk) -> Frame | None:
        frames = self._frames
        if form not in frames:
            if len(frames) >= KEPT_FORMS:
                frames = self._frames = {}  # not cleared: another thread may be about to read the old one
            count = len(_texts(form))
            try:
                frames[form] = self._framer.frame(lambda texts: self._render(with_texts(form, texts)), count)
            except Exception:  # whatever a template raises, it does so again, and is heard, where it is rendered
                frames[form] = None
        return frames[form]

    def _course(self, form: Talk) -> Course | None:
        courses = self._courses
        if form not in courses:
            if len(courses) >= KEPT_FORMS:
                courses = self._courses = {}  # as in `_frame`
            courses[form] = self._make_course(form)
        return courses[form]

    def _make_course(self, form: Talk) -> Course | None:
        """None unless every prompt is the beginning of the whole, whatever the texts.

        It never is if a question and its answer share a segment, as in smollm2's wording.
        """
        whole, tail, course = self._frame(form), tuple(self._tail()), []
        for count, (question, _) in enumerate(form.turns):
            asked = self._frame(form._replace(turns=(*form.turns[:count], (question, None))))  # through the prompt
            part = self._frame(form._replace(turns=form.turns[: count + 1]))  # through the answer and its tail
            if whole is None or asked is None or part is None or not part.segments:
                return None
            last = len(part.segments) - 1  # the segment with the answer
            opening = asked.ids[-1][len(whole.ids[last]) :]
            behind = len(part.ids[-1]) - len(tail) + 1
            goes_on = (
                # Through the answer the whole is written as if no turn followed: the same segments,
                part.segments == whole.segments[: last + 1]
                # and the same ids between them; those behind the last are compared below.
                and part.ids[:-1] == whole.ids[: last + 1]
                # In front of the answer it is written as if that were still to come: the same segments,
                and asked.segments == whole.segments[:last]
                # the same ids between them,
                and asked.ids[:-1] == whole.ids[:last]
                # and where the answer's segment begins the prompt has its opening.
                and asked.ids[-1] == whole.ids[last] + opening
            )
            ends = behind > 0 and part.ids[-1][behind - 1 :] == tail
            if not goes_on or not ends or whole.ids[last + 1][:behind] != part.ids[-1][:behind]:
                return None
            course.append(Taught(last, opening, behind))
        return course


def _lesson(read: Read, course: Course) -> Lesson | None:
    """None if an answer has melted into its prompt, or has no token of its own."""
    learnt = []
    for segment, opening, behind in course:
        start, end = read.places[segment]
        begin = start + len(opening)
        if begin >= end or tuple(read.ids[start:begin]) != opening:
            return None
        learnt.append((begin, end + behind))
    return Lesson(read.ids[: learnt[-1][1]], tuple(learnt))


def _texts(form: Talk) -> str:
    """The marks of a form's texts."""
    written = [form.system, form.caption or "", *(part or "" for turn in form.turns for part in turn)]
    return "".join(letter for text in written for letter in text if letter == TEXT)
