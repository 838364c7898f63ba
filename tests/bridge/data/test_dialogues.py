"""Conversations of several turns and images, packed, against the stock processor and model on the whole of each."""

import pytest
import torch
from tiny import pictures
from tiny.encoders import nine_patch_encoder

from bridge.config import parse_config
from bridge.data.batches import step_data
from bridge.data.example import Dialogue, Example
from bridge.data.mixture import Mixture
from bridge.data.packing import rounded
from bridge.data.patches import PatchEncoder
from bridge.data.questions import Questions
from bridge.data.schedule import ScheduledRow
from bridge.evaluation.decode import common_prefix
from bridge.forward import label_logits, prefill
from vlm.errors import UserError
from vlm.images import load_image
from vlm.llava.assembly import assemble
from vlm.llms.load import load_llm

FAMILY = pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm2"])


@pytest.fixture(scope="module")
def vlms(llm_folders):
    names = {**{family: str(folder) for family, folder in llm_folders.items()}, "smollm2": "smollm2"}
    made = {family: assemble(nine_patch_encoder(), load_llm(name, torch.float32)) for family, name in names.items()}
    for vlm in made.values():
        vlm.connector.linear_2.weight.data.mul_(20)
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    paths = [root / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        pictures.noise(24, 24, seed=seed).save(path)
    return paths


def dialogues(images) -> dict[str, Dialogue]:
    one, two, three = images
    turns = (("<image>\nWhat is it?", "a star"), ("Is it red?", "no, blue"), ("Why?", "paint"))
    later = (("Compare <image> with the text: star", "no"), ("And <image>, <image>?", "yes it is"))
    return {
        "turns": Dialogue("turns", (one,), turns),
        "same": Dialogue("same", (one,), (("<image>\nWhat color is it?", "red"),)),
        "several": Dialogue("several", (one, two), (("<image>\n<image>\nWhat is it?", "a star"),)),
        "later": Dialogue("later", (three, one, two), later, system="Be kind."),
        "text": Dialogue("text", (), (("Is it?", "no"), ("Why?", "red"))),
    }


def stock_messages(dialogue: Dialogue) -> list[dict]:
    messages = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for question, answer in dialogue.turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def stock(vlm, dialogue: Dialogue) -> tuple[list[int], torch.Tensor]:
    """The labels of a whole conversation and the logits that predict them, by the stock processor and model."""
    text = vlm.processor.apply_chat_template(stock_messages(dialogue))
    shown = [load_image(path) for path in dialogue.images] or None
    bos = vlm.processor.tokenizer.bos_token
    inputs = vlm.processor(
        text=text, images=shown, return_tensors="pt", add_special_tokens=not (bos and text.startswith(bos))
    )
    logits = vlm.model(**inputs).logits[0]
    ids = inputs["input_ids"][0].tolist()
    end, tokenizer = vlm.prompts.end_ids[0], vlm.processor.tokenizer
    other = tokenizer(vlm.processor.apply_chat_template([{"role": "user", "content": "#"}])).input_ids
    at, begin = [], common_prefix([ids, other])  # behind smollm2's examples
    space = " " if vlm.processor.image_token == "<empty_output>" else ""
    for _, answer in dialogue.turns:  # found one after the other, as they read
        tokens = [*tokenizer(space + answer, add_special_tokens=False).input_ids, end]
        begin = next(i for i in range(begin, len(ids)) if ids[i : i + len(tokens)] == tokens)
        at += range(begin, begin + len(tokens))
        begin += len(tokens)
    return [ids[place] for place in at], logits[[place - 1 for place in at]]


def packed(vlm, rows: list[list[Dialogue]], **changes) -> tuple[list, list[int], torch.Tensor]:
    """Micro-batches of scheduled rows, and their labels and logits."""
    config = parse_config(["--llm", "x", "--encoder", "blind", "--gqa", "x", *changes.pop("flags", [])])
    flat = [dialogue for row in rows for dialogue in row]
    questions = Questions(Mixture.of([flat]), vlm.prompts, config)
    step = tuple(ScheduledRow(0, tuple(flat.index(dialogue) for dialogue in row)) for row in rows)
    encoder = PatchEncoder(vlm.model, vlm.processor.image_processor)
    data = step_data(step, questions, encoder, micro_tokens=8192)
    past = prefill(vlm.model, questions.opening_ids)
    logits = [label_logits(vlm.model, batch.rows, batch.features, past) for batch in data.batches]
    labels = [label for batch in data.batches for label in batch.rows.labels.tolist()]
    return data.batches, labels, torch.cat(logits)


@FAMILY
@pytest.mark.parametrize("name", ["turns", "several", "later", "text"])
@torch.no_grad()
def test_a_packed_conversation_is_the_stock_one(vlms, images, family, name):
    vlm, dialogue = vlms[family], dialogues(images)[name]
    expected_labels, expected = stock(vlm, dialogue)
    batches, labels, logits = packed(vlm, [[dialogue]])
    assert labels == expected_labels
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    # One segment: no token is there twice, and the opening is not there at all where it is shared.
    text = vlm.processor.apply_chat_template(stock_messages(dialogue))
    whole = len(vlm.prompts._encode(text))
    (batch,) = batches
    length = whole - len(vlm.prompts.end_ids) - batch.rows.opening_seen.item()
    assert batch.rows.ids.shape[1] == rounded(length, 16)
    assert batch.rows.ends[0, length - 1] == length
    assert batch.rows.ends[0, length:].tolist() == list(range(length + 1, rounded(length, 16) + 1))  # padding


@FAMILY
@torch.no_grad()
def test_conversations_share_a_row_or_a_batch_without_seeing_each_other(vlms, images, family):
    vlm, known = vlms[family], dialogues(images)
    alone = {name: packed(vlm, [[dialogue]])[1:] for name, dialogue in known.items()}
    _, labels, logits = packed(
        vlm, [[known["turns"], known["same"]], [known["later"]], [known["several"]], [known["text"]]]
    )
    assert sorted(labels) == sorted(label for own, _ in alone.values() for label in own)
    for own_labels, own in alone.values():
        for label, expected in zip(own_labels, own):
            close = [(logits[i] - expected).abs().max() for i in range(len(labels)) if labels[i] == label]
            assert min(close) < 2e-4


def test_labels_are_literal(vlms, images):
    vlm = vlms["qwen2"]
    _, labels, _ = packed(vlm, [[dialogues(images)["turns"]]])
    text = vlm.processor.tokenizer.decode(labels)
    assert text == "a star<|im_end|>no, blue<|im_end|>paint<|im_end|>"
    example = Example("1", images[0], "Is it?", "no")
    batches, labels, _ = packed(vlm, [[example]])
    assert vlm.processor.tokenizer.decode(labels) == "no<|im_end|>"
    row, ends = batches[0].rows.ids[0], batches[0].rows.ends[0]
    assert vlm.processor.tokenizer.decode(row[9 : ends[0]]) == (
        "\nIs it?\nAnswer the question using a single word or phrase.<|im_end|>\n<|im_start|>assistant\nno"
    )


@torch.no_grad()
def test_answer_takes_several_images(vlms, images):
    vlm = vlms["qwen2"]
    one, two, _ = images
    question = "What changed between <image> and <image>?"
    text = vlm.processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    inputs = vlm.processor(text=text, images=[load_image(one), load_image(two)], return_tensors="pt")
    new = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert vlm.answer([one, two], question, 6) == vlm.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert vlm.answer([one, two], "Is it?", 6) == vlm.answer([one, two], "<image>\n<image>\nIs it?", 6)
    assert vlm.answer([one], "Is it?", 6) == vlm.answer(one, "Is it?", 6)
    assert vlm.answer([], "Is it?", 6) == vlm.answer(None, "Is it?", 6)
    later = vlm.answer([one, two], "And <image>?", 6, history=[("<image>\nIs it?", "no")])
    assert later != vlm.answer([two, one], "And <image>?", 6, history=[("<image>\nIs it?", "no")])
    ids = vlm.prompt_ids("What does <image> mean?")  # typed beside one image: a word
    assert "What does <image> mean?" in vlm.processor.tokenizer.decode(ids)
    with pytest.raises(UserError, match="2 images are given, but the text says <image> 1 times"):
        vlm.answer([one, two], "What is <image>?")


@FAMILY
def test_answers_that_will_end_with_their_first_line_are_counted(vlms, images, family, capsys):
    """smollm2's text format ends an answer where its line ends."""
    turns = (("What is it?", "a star"), ("Why?", " paint\n"), ("How?", "first\nthen\n\nlast"), ("Who?", "one\ntwo"))
    several = Dialogue("lines", (), turns)
    config = parse_config(["--llm", "x", "--encoder", "blind", "--gqa", "g"])
    found = Questions(Mixture.of([[several, *dialogues(images).values()]]), vlms[family].prompts, config).check(
        range(6)
    )
    note = "note: 2 answers have several lines, and this language model's template ends an answer with its line: the"
    told = capsys.readouterr().err
    assert found == {} and told.startswith(note) == (family == "smollm2") == bool(told)
