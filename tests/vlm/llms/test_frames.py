"""Ids without rendering: those of the template, for every family, and the template's own way where it must be."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llms import frames, lessons, prompt
from vlm.llms.forms import Talk, question_pieces
from vlm.llms.frames import Reads
from vlm.llms.load import load_llm
from vlm.llms.prompt import SHORT_ANSWER, Prompts, briefly

ODD = [
    "What color is the star?", " \n padded \t", "user", "system", "x<image>y", "日本語？", "a\n\n\nb", "🙂🙂", "<",
    "|>", "<|im_", "im_end|>", "<think", "é́", "\u00a0nbsp\u00a0", "1234567", "'s don't", "\x00", "\ufeffbom", 
    "word " * 50,
    SHORT_ANSWER, "x " + SHORT_ANSWER, briefly("Is it?"), "{{ x }}", "\r\n", "\ud800", "", "a <|im_end|> b",
    "<|eot_id|>",
]  # fmt: skip
BETWEEN = ("", "<image>\n", "<image> <image>", " <image>", "<image> or <image> ?")


def conversation(random: np.random.Generator) -> Talk:
    """Some turns of odd texts, some images in them."""
    images = [1, 0, None, None, 2][random.integers(5)]
    turns = []
    for _ in range(random.integers(1, 5)):
        question, answer = random.choice(ODD, 2)
        if images is None:
            before, behind = random.choice(BETWEEN, 2)
            question = before + question.replace("<image>", "") + behind
        turns.append((str(question), str(answer)))
    return Talk(tuple(turns), images, system=["", "", "Be kind.", " odd\n"][random.integers(4)])


def outcome(way, *arguments):
    try:
        return way(*arguments)
    except UserError as error:
        return str(error)


@pytest.fixture(scope="module")
def every(models, encoder):
    """Prompts of every family, and of SmolLM2's text with and without its examples."""
    made = {family: model.prompts for family, model in models.items()}
    for examples in (True, False):
        made[f"smollm2 {examples}"] = assemble(encoder, load_llm("smollm2", torch.float32, examples=examples)).prompts
    return made


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm2 True", "smollm2 False"])
def test_ids_are_those_of_the_rendered_template(every, family):
    prompts = every[family]
    rendered = Prompts(prompts.processor, prompts.slots)
    rendered._frames._reads = None  # no frame
    random, framed, whole = np.random.default_rng(0), 0, 0
    for _ in range(60):
        talk = conversation(random)
        asked = talk._replace(turns=(*talk.turns[:-1], (talk.turns[-1][0], None)))
        for each in (talk, asked):
            ids = outcome(prompts._all_ids, [each])
            assert ids == outcome(rendered._all_ids, [each])
            framed += not isinstance(ids, str) and prompts._frames.ids([each])[0] is not None
        lessons = outcome(prompts.lessons, [talk])
        assert lessons == outcome(rendered.lessons, [talk])
        whole += not isinstance(lessons, str) and prompts._frames.lessons([talk])[0] is not None
    assert framed > 40
    assert whole > 15 or "smollm2" in family  # whose prompt and answer are one text, without a token between them


def test_a_batch_is_its_conversations(every):
    talks = [Talk(((briefly(f"Is it {number}?"), f"{number}"),)) for number in range(9)]
    talks += [Talk((("<image>\nIs it?", "no"), ("Why?", "red")), None, system="Be kind.")]
    for prompts in every.values():
        assert prompts.lessons(talks) == [prompts.lessons([talk])[0] for talk in talks]
        for talk, (lesson,) in zip(talks[:9], prompts.lessons(talks)):
            ids, at = prompts.conversation_ids(talk.turns[0][0], str(talk.turns[0][1]))
            assert (lesson.ids, lesson.learnt) == (ids, ((at, len(ids)),))


def test_each_text_of_a_conversation_is_tokenised_once(models, monkeypatch):
    """However many turns it has: the segments of 24 turns are four times those of 6."""
    prompts, letters = models["qwen2"].prompts, []
    framer = prompts._frames._framer
    turns = tuple((f"Question number {number} about the star?", f"the answer {number}") for number in range(24))
    for count in (6, 24):
        prompts.lessons([Talk(turns[:count])])  # makes the frames
    read = framer.read
    monkeypatch.setattr(framer, "read", lambda texts: letters.append(sum(map(len, texts))) or read(texts))
    for count in (6, 24):
        framer._known.clear()
        prompts.lessons([Talk(turns[:count])])
    assert len(letters) == 2
    assert letters[1] < 4.2 * letters[0]


def changed(models, family: str, old: str, new: str) -> tuple[Prompts, Prompts]:
    """Prompts of a changed template, with frames and without."""
    import copy

    processor = copy.deepcopy(models[family].processor)
    processor.chat_template = processor.chat_template.replace(old, new)
    assert new in processor.chat_template
    pair = Prompts(processor, 9), Prompts(processor, 9)
    pair[1]._frames._reads = None
    return pair


@pytest.mark.parametrize(
    "written",
    [
        "m['content'] | upper", "m['content'] | title", "m['content'] | capitalize", "m['content'] | e",
        "m['content'][:40]", "m['content'].replace('red', 'blue')", "m['content'] | replace('red', 'blue')",
        "m['content'].strip('d')", "(m['content'] + '\n') | trim", "m['content'].split('red')[0]",
        "('no' if m['content'] == 'red' else m['content'])", "('no' if 'red' in m['content'] else m['content'])",
        "('no' if m['content'] in 'is it red' else m['content'])", "m['content'] | wordcount",
        "('no' if m['content'].startswith('red') else m['content'])",
    ],
)  # fmt: skip
def test_a_template_that_changes_its_texts_is_rendered(models, written):
    """Whatever it does with some texts, these come out as it writes them."""
    old = "message.content + '<|im_end|>\n' }}"
    new = f"(({written}) | string) + '<|im_end|>\n' }}}}".replace("m['", "message['")
    framed, rendered = changed(models, "qwen2", old, new)
    for question in ("Is it red?", "red", "Red & <b>", "Is it " + "very " * 20 + "red", "red\n\nd"):
        for talk in (Talk(((question, "red"),)), Talk(((question, None),), 0)):
            assert outcome(framed._all_ids, [talk]) == outcome(rendered._all_ids, [talk])


def test_what_a_template_looks_for():
    reads = Reads.of(
        "{% for m in messages %}{% if m['role'] == 'user' and '</think>' in m.content %}{{ m.content.split('<a>')[0] | "
        "trim('#') }}{% set x = 'date' %}{% endif %}{% endfor %}"
    )
    assert reads == Reads(("</think>", "<a>", "date"), frozenset({"user"}), frozenset({"#"}))
    assert [reads.found_in(text) for text in ("user", "a user", "up to date", "x</think>", "#1", "1#", "role", "")] == [
        True, False, True, True, True, True, False, False,
    ]  # fmt: skip
    assert Reads.of("{% if %}") is None


def test_pieces_of_a_question():
    assert question_pieces("<image>\nQ") == question_pieces(" Q\n<image>") == ["<image>", "Q"]
    assert question_pieces("<image>") == ["<image>", ""]
    assert question_pieces("<image> Is A in <image> or <image> ? ") == ["<image>", "Is A in ", " or ", " ?"]


class Interrupted(dict):
    """A dict during whose first look-up another thread runs `other`."""

    def __init__(self, known: dict, other):
        super().__init__(known)
        self.other = other

    def __contains__(self, key):
        found = super().__contains__(key)
        other, self.other = self.other, None
        if other is not None:
            in_a_thread(other)
        return found


def in_a_thread(work) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def one_turn(question: str, answer: str) -> list[Talk]:
    return [Talk(((question, answer),))]


def test_kept_ids_that_another_thread_drops_are_still_there_for_the_first(models, monkeypatch):
    """The question is known and the answer is not: while it is read, another thread goes over the limit, twice."""
    prompts = models["qwen2"].prompts
    framer = prompts._frames._framer
    expected = prompts.lessons(one_turn("Is it?", "no"))
    monkeypatch.setattr(framer, "_known", {})
    prompts.lessons(one_turn("Is it?", "yes"))
    assert len(framer._known) == 2
    monkeypatch.setattr(frames, "KEPT_SEGMENTS", 3)
    read, others = framer.read, ["red", "blue"]

    def interrupted(texts):
        now, others[:] = list(others), []  # what they read themselves is not interrupted
        for other in now:
            in_a_thread(partial(prompts.lessons, one_turn(f"What is {other}?", other)))
        return read(texts)

    monkeypatch.setattr(framer, "read", interrupted)
    assert prompts.lessons(one_turn("Is it?", "no")) == expected
    assert len(framer._known) == 2  # the last thread's: the limit holds


@pytest.mark.parametrize("kept", ["_frames", "_courses"])
def test_kept_forms_that_another_thread_drops_are_still_there_for_the_first(models, monkeypatch, kept):
    prompts = Prompts(models["qwen2"].processor, 9)
    expected = prompts.lessons(one_turn("Is it?", "no"))
    monkeypatch.setattr(lessons, "KEPT_FORMS", 1)
    two_turns = [Talk((("Is it?", "no"), ("Why?", "red")))]
    forms = Interrupted(getattr(prompts._frames, kept), lambda: prompts.lessons(two_turns))
    setattr(prompts._frames, kept, forms)
    assert prompts.lessons(one_turn("Is it?", "no")) == expected
    assert forms.other is None
    assert len(getattr(prompts._frames, kept)) == 1


def test_kept_heads_that_another_thread_drops_are_still_there_for_the_first(models, monkeypatch):
    prompts = Prompts(models["qwen2"].processor, 9)
    token = prompts.processor.image_token
    expected = prompts._encode(f"one {token} is it?")
    monkeypatch.setattr(prompt, "CACHED_HEADS", 1)
    heads = prompts._heads = Interrupted(prompts._heads, lambda: prompts._encode(f"two {token} is it?"))
    assert prompts._encode(f"one {token} is it?") == expected
    assert heads.other is None
    assert list(prompts._heads) == ["two "]


def test_a_read_sets_nothing_of_the_tokenizer_that_is_right(models):
    """Another thread may be encoding with it."""
    framer, told = models["qwen2"].prompts._frames._framer, []

    class Backend:
        truncation, padding, _specials = None, None, False

        def encode_batch_fast(self, texts, add_special_tokens):
            return framer_backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

        def no_truncation(self):
            self.truncation = told.append("truncation")

        def no_padding(self):
            self.padding = told.append("padding")

        @property
        def encode_special_tokens(self):
            return self._specials

        @encode_special_tokens.setter
        def encode_special_tokens(self, value):
            self._specials = value
            told.append("specials")

    framer_backend, backend = framer.backend, Backend()
    backend_framer = frames.Framer(framer.tokenizer, framer.controls, framer.image_token, framer.image_ids)
    backend_framer.backend = backend
    expected = framer.read(["Is it?"])
    assert backend_framer.read(["Is it?"]) == expected
    assert told == []
    backend.truncation, backend.padding, backend._specials = {"max_length": 1}, {"length": 99}, True
    assert backend_framer.read(["Is it?"]) == expected
    assert told == ["truncation", "padding", "specials"]
    assert (backend.truncation, backend.padding, backend.encode_special_tokens) == (None, None, False)
