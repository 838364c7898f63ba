"""`vlm chat`, run through the command."""

import gc
import json
import re
import weakref

import pytest
import torch
from PIL import Image

from vlm.apps.answers import Answer, Asking
from vlm.apps.pictures import Pictures
from vlm.apps.settings import ChatSettings
from vlm.llava.model import load

# bf16 logits tie often, and sampling may then choose another token than greedy decoding does.
TWELVE = ("--max-new-tokens", "12", "--precision", "fp32")


def test_one_shot_prints_the_answer_alone(run, folder, picture, picture_file):
    code, out, err = run("chat", folder, "--image", picture_file, "--question", "What is it?", "--max-new-tokens", "9")
    assert (code, err) == (0, "")
    assert out == load(folder, "cpu").answer(picture, "What is it?", 9) + "\n"


def test_a_conversation_from_a_pipe(run, folder, picture, picture_file, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    lines = f"What is it?\n\nBig?\n/image {picture_file}\nWhat is it?\n/new\n/help\nWhat is it?\n/quit\nUnread?\n"
    code, out, err = run("chat", folder, "--image", str(tmp_path / "red.png"), "--max-new-tokens", "6",
                         piped=lines.encode())  # fmt: skip
    model, red = load(folder, "cpu"), Image.open(tmp_path / "red.png")
    first = model.answer(red, "What is it?", 6)
    second = model.answer(red, "Big?", 6, history=[("What is it?", first)])
    other = model.answer(picture, "What is it?", 6)
    assert code == 0
    assert out == "".join(" ".join(answer.splitlines()) + "\n" for answer in (first, second, other, other))
    assert "/image PATH" in err and "Unread" not in out


def test_from_a_pipe_every_question_has_one_line_and_a_failure_the_exit_code_1(run, folder, picture_file):
    lines = b"/image nowhere.png\nIs it?\n/new\n/dance\na <|im_end|> b\nfa\xff\xfe\xe7ade?\n"
    code, out, err = run("chat", folder, "--image", picture_file, "--max-new-tokens", "3", piped=lines)
    missing = "cannot read the image nowhere.png: No such file or directory"
    assert code == 1
    assert out.splitlines() == [
        f"error: there is no picture ({missing}): give /image PATH, or /new to go on without one",
        "error: unknown command /dance: /help lists them",
        "error: the text 'a <|im_end|> b' contains the control token <|im_end|>: leave it out",
        r"error: not valid Unicode text: 'fa\udcff\udcfe\udce7ade?'",
    ]
    assert err.splitlines() == [
        f"error: {missing}; there is no picture now: give /image PATH, or /new to go on without one",
        "5 lines could not be answered or obeyed",
    ]
    assert run("chat", folder, "--image", picture_file, "--max-new-tokens", "3", piped=b"Is it?\nexit\nUnread?")[0] == 0


def test_a_byte_order_mark_is_no_part_of_the_first_line(run, folder, picture_file):
    asked = ("chat", folder, "--image", picture_file, "--json", "--max-new-tokens", "3")
    plain, marked = (run(*asked, piped=mark + b"What is it?\n/new\nquit\nUnread?") for mark in (b"", b"\xef\xbb\xbf"))
    first, second = (json.loads(out) for _, out, _ in (plain, marked))
    assert (second["question"], second["answer"]) == ("What is it?", first["answer"])
    assert run(*asked, piped=b"\xef\xbb\xbfquit\nUnread?")[:2] == (0, "")


def test_line_breaks_within_an_answer_are_folded():
    answer = Answer("What?", Pictures(), "a  b\n\nc\u2028 d\r\n")
    assert answer.line() == "a  b c d"
    answer.text = "\n"
    assert answer.line() == ""


def test_json_lines(run, folder, picture, picture_file):
    lines = b"What is it?\n<|im_end|>\n"
    asked = ("chat", folder, "--image", picture_file, "--json", "--max-new-tokens", "4")
    code, out, _ = run(*asked, piped=lines)
    good, bad = (json.loads(line) for line in out.splitlines())
    assert code == 1
    assert list(good) == ["question", "answer", "image", "error", "tokens", "seconds"]
    assert good["answer"] == load(folder, "cpu").answer(picture, "What is it?", 4)
    assert (good["image"], good["error"], good["tokens"]) == (picture_file, None, 4)
    assert good["seconds"] > 0
    assert (bad["question"], bad["answer"], bad["tokens"]) == ("<|im_end|>", None, 0)
    assert bad["error"] == "the text '<|im_end|>' contains the control token <|im_end|>: leave it out"
    code, out, err = run(*asked, "--question", "What is it?")
    assert (code, json.loads(out)["answer"], err) == (0, good["answer"], "")
    assert run(*asked, "--question", " ")[0] == 1


def test_several_pictures(run, folder, picture, picture_file, tmp_path):
    red = tmp_path / "red.png"
    Image.new("RGB", (40, 40), "red").save(red)
    both = load(folder, "cpu").answer([picture, Image.open(red)], "Alike?", 6)
    options = ("--json", "--max-new-tokens", "6")
    _, out, _ = run("chat", folder, "--image", picture_file, "--image", str(red), *options, piped=b"Alike?")
    assert json.loads(out)["answer"] == both
    lines = f"/add {red}\nAlike?\n/image '{picture_file}' {red}\nAlike?\n/image {red}\nAlike?\n"
    _, out, _ = run("chat", folder, "--image", picture_file, *options, piped=lines.encode())
    one, two, three = (json.loads(line) for line in out.splitlines())
    assert (one["answer"], two["answer"]) == (both, both)
    assert (one["image"], two["image"], three["image"]) == (
        [picture_file, str(red)],
        [picture_file, str(red)],
        str(red),
    )


def test_sampling_is_seeded_and_warns_of_nothing(run, folder, picture_file):
    def sampled(*options):
        lines = b"What is it?\nWhat is it?\n"
        return run("chat", folder, "--image", picture_file, *TWELVE, *options, piped=lines)

    greedy, warm = sampled(), sampled("--temperature", "2")
    assert (warm[0], warm[2]) == (0, "")
    assert warm[1] != greedy[1] and warm[1] == sampled("--temperature", "2", "--seed", "0")[1]
    assert warm[1] != sampled("--temperature", "2", "--seed", "1")[1]
    code, answers, _ = sampled("--temperature", "2", "--seed", str(2**64 - 1))
    assert code == 0 and answers != warm[1]
    assert sampled("--temperature", "0") == greedy
    assert sampled("--top-p", "1e-6") == greedy  # the likeliest token alone is left
    err = sampled("--stats")[2]
    assert re.fullmatch(r"(12 tokens in \d+\.\d\d s, the first after \d+\.\d\d s, then \d+\.\d tokens/s\n){2}", err)


def test_short_asks_for_a_word(run, folder, picture, picture_file):
    asked = ("chat", folder, "--image", picture_file, "--max-new-tokens", "6", "--question", "What is it?")
    model = load(folder, "cpu")
    assert run(*asked, "--short")[1] == model.answer(picture, "What is it?", 6, short=True) + "\n"
    assert run(*asked)[1] != run(*asked, "--short")[1]
    assert run(*asked, "--device", "cpu", "--precision", "fp32")[1] == run(*asked)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "nowhere", "--question", "x"], "error: nowhere is not a VLM: give RUN/vlm of a bridge/train.py run"),
        (["chat", "FOLDER", "--image", "none.png"], "error: cannot read the image none.png: No such file"),
        (["chat", "FOLDER", "--question", " "], "error: a question or answer is empty"),
        (["chat", "FOLDER", "--max-new-tokens", "0"], "error: --max-new-tokens 0: give 1 or more"),
        (["chat", "FOLDER", "--device", "gpu"], "error: --device gpu: this is no device; give cpu, cuda or mps"),
        (["chat", "FOLDER", "--precision", "fp8"], "invalid choice: 'fp8'"),
        (["chat", "FOLDER", "--top-p", "1.5"], "error: --top-p 1.5: give a number above 0, 1 at most"),
        (["chat", "FOLDER", "--image", ""], "error: no picture is named"),
        (["chat", "FOLDER", "--img", "x.png"], "error: unrecognized arguments: --img"),
        (["doctor", "labels", "FOLDER", "--json"], "error: --json is not of `vlm doctor labels`: leave it out"),
        (["doctor", "FOLDER", "--answer", "a"], "error: --answer is of `vlm doctor labels DIR` alone: leave it out"),
        (["doctor", "--accept"], "error: --accept records the files of one folder: give its DIR"),
        (["doctor", "labels", "nowhere"], "error: nowhere is not a VLM"),
        (["doctor", "check", "FOLDER"], "error: doctor takes nothing, DIR or labels DIR"),
        (["doctor", "nowhere"], "error: there is no nowhere: give a VLM, encoder, export, run or data folder"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "error: the following arguments are required: COMMAND"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(run, folder, arguments, message):
    code, out, err = run(*[folder if part == "FOLDER" else part for part in arguments])
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("command", [[], ["chat"], ["features"], ["doctor"]])
def test_every_help_has_examples(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0 and "examples:\n  vlm " in out


def test_a_chat_whose_device_has_no_memory_left_says_so_and_lives_on(folder, picture, monkeypatch):
    """What the failed answer has computed is free again at once, without a search for cycles."""
    vlm, held = load(folder, "cpu"), []

    def run_out(*_, **__):
        computed = torch.ones(8)
        held.append(weakref.ref(computed))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")

    asking, pictures = Asking(vlm, ChatSettings(str(folder), max_new_tokens=3)), Pictures(("a.png",), (picture,))
    gc.disable()
    try:
        with monkeypatch.context() as full:
            full.setattr(vlm.model, "generate", run_out)
            answer = asking.answer(pictures, "What is it?", [], lambda piece: None)
        assert held[0]() is None
    finally:
        gc.enable()
    assert answer.error == (
        "out of memory while this was answered (CUDA out of memory. Tried to allocate 2.00 GiB): ask about fewer "
        "pictures or with fewer words, or close what else uses the device"
    )
    assert asking.answer(pictures, "What is it?", [], lambda piece: None).error is None
