"""A VLM's answers and streams."""

from collections import deque

import numpy as np
import pytest
from PIL import Image

from vlm.errors import UserError
from vlm.llava.model import load

QUESTION = "What color is the star?"
FAMILY = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])


@FAMILY
def test_streamed_pieces_join_to_the_answer(models, picture, family):
    model = models[family]
    answer = model.answer(picture, QUESTION, max_new_tokens=12)
    assert "".join(model.stream(picture, QUESTION, max_new_tokens=12)) == answer
    assert answer != model.answer(picture.transpose(Image.Transpose.ROTATE_180), QUESTION, max_new_tokens=12)
    assert model.answer(None, QUESTION, max_new_tokens=3) == "".join(model.stream(None, QUESTION, max_new_tokens=3))


def test_a_stream_that_is_closed_or_fails(models, picture, monkeypatch):
    model = models["llama"]
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [0])
    steps = []
    counting = model.model.register_forward_pre_hook(lambda *_: steps.append(1))
    pieces = model.stream(picture, QUESTION, max_new_tokens=400)
    next(pieces)
    pieces.close()
    counting.remove()
    assert 0 < len(steps) < 300
    failing = model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(model.stream(picture, QUESTION))
    failing.remove()


def test_a_question_that_is_empty_or_longer_than_the_model_reads(models, picture, monkeypatch):
    model = models["qwen2"]
    for short in (False, True):
        with pytest.raises(UserError, match="a question or answer is empty: give some text"):
            model.answer(picture, "  ", short=short)
    tokens, answer = len(model.prompt_ids(QUESTION)), model.answer(picture, QUESTION, max_new_tokens=4)
    monkeypatch.setattr(model.language_model.config, "max_position_embeddings", tokens + 4)
    assert model.answer(picture, QUESTION, max_new_tokens=4) == answer
    message = rf"the prompt is too long: {tokens} tokens with its pictures, {tokens - 1} are possible with an answer"
    with pytest.raises(UserError, match=message):
        model.stream(picture, QUESTION, max_new_tokens=5)
    assert model.fitting(picture, QUESTION, 4, [("Is it?", "no"), ("Red?", "yes")]) == []
    monkeypatch.setattr(model.language_model.config, "max_position_embeddings", 4 + tokens + 24)
    fitting = model.fitting(picture, QUESTION, 4, [("Is it? " * 9, "no"), ("Red?", "yes")])
    assert fitting == [("Red?", "yes")]


def test_a_history_may_be_any_sequence_of_pairs(models):
    pairs = [("Is it?", "no"), ("Red?", "yes")]
    ids = models["qwen2"].prompt_ids(QUESTION, 1, history=pairs)
    assert models["qwen2"].prompt_ids(QUESTION, 1, history=deque(map(list, pairs))) == ids


@pytest.mark.parametrize(
    ("question", "given", "message"),
    [
        (None, {}, "a question or answer is text, not NoneType: give a string"),
        (3, {"short": True}, "a question or answer is text, not int"),
        (
            QUESTION,
            {"history": [{"role": "user", "content": "a"}]},
            "history is a list of pairs .*; not {'role': 'user'",
        ),
        (QUESTION, {"history": {"a": "b"}}, "history is a list of pairs .*; not {'a': 'b'}"),
        (QUESTION, {"history": ["no"]}, "history is a list of pairs .*; not 'no'"),
        (QUESTION, {"history": [("a", "b", "c")]}, "history is a list of pairs"),
        (QUESTION, {"history": [("a", None)], "short": True}, "history is a list of pairs"),
        (QUESTION, {"max_new_tokens": 0}, "max_new_tokens 0: give a whole number, 1 or more"),
        (QUESTION, {"max_new_tokens": 1.5}, "max_new_tokens 1.5: give"),
        ("How \ud83d", {}, r"not valid Unicode text: 'How \\ud83d'$"),
    ],
)
def test_what_is_no_question_is_one_line(models, picture, question, given, message):
    for ask in (models["qwen2"].answer, models["qwen2"].stream):
        with pytest.raises(UserError, match=message):
            ask([picture], question, **given)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([None], "NoneType is no picture: give a path, a PIL image, a list of these, or None"),
        (np.zeros((4, 4, 3)), "ndarray is no picture"),
        (b"\xff\xd8", "bytes is no picture"),
        (Image.new("RGB", (0, 0)), "a picture of 0 x 0 pixels shows nothing: give another one"),
    ],
)
def test_what_is_no_picture_is_one_line(models, image, message):
    with pytest.raises(UserError, match=message):
        models["qwen2"].answer(image, QUESTION)


@pytest.mark.parametrize(
    ("device", "message"),
    [("banana", "--device banana: this is no device; give cpu"), ("cuda", "--device cuda: there is no CUDA device")],
)
def test_a_device_that_is_not_there_is_one_line(saved, device, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        load(saved / "qwen2", device)
