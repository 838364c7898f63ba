"""`vlm chat` and `vlm doctor`, run through the command."""

import io
import sys

import pytest
from PIL import Image

from vlm import cli
from vlm.llava.model import load


@pytest.fixture(scope="module")
def folder(saved):
    return str(saved / "qwen2")


@pytest.fixture
def picture_file(picture, tmp_path):
    picture.save(tmp_path / "a picture.png")
    return str(tmp_path / "a picture.png")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command on arguments and piped lines. Returns the exit code, stdout and stderr."""

    def command(*arguments, piped: bytes = b""):
        monkeypatch.setattr(sys, "argv", ["vlm", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return command


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
    assert out == "".join(answer + "\n" for answer in (first, second, other, other))
    assert "/image PATH" in err and "Unread" not in out


def test_a_line_that_goes_wrong_is_told_and_the_next_is_read(run, folder, picture_file):
    lines = b"/image nowhere.png\n/dance\na <|im_end|> b\nfa\xff\xfe\xe7ade?\n"
    code, out, err = run("chat", folder, "--image", picture_file, "--max-new-tokens", "3", piped=lines)
    assert code == 0 and out.count("\n") == 1
    assert err.splitlines() == [
        "error: cannot read the image nowhere.png: No such file or directory",
        "error: unknown command /dance: /help lists them",
        "error: the text 'a <|im_end|> b' contains the control token <|im_end|>: leave it out",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "nowhere", "--question", "x"], "error: nowhere is not a VLM: give RUN/vlm of a bridge/train.py run"),
        (["chat", "FOLDER", "--image", "none.png"], "error: cannot read the image none.png: No such file"),
        (["chat", "FOLDER", "--question", " "], "error: a question or answer is empty"),
        (["chat", "FOLDER", "--max-new-tokens", "0"], "error: --max-new-tokens 0: give 1 or more"),
        (["chat", "FOLDER", "--img", "x.png"], "error: unrecognized arguments: --img"),
        (["doctor", "labels", "nowhere"], "error: nowhere is not a VLM"),
        (["doctor", "check", "FOLDER"], "error: doctor takes DIR or labels DIR"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "error: the following arguments are required: COMMAND"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(run, folder, arguments, message):
    code, out, err = run(*[folder if part == "FOLDER" else part for part in arguments])
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("command", [[], ["chat"], ["doctor"]])
def test_every_help_has_examples(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0 and "examples:\n  vlm " in out


def test_doctor_finds_a_folder_well(run, folder):
    code, out, _ = run("doctor", folder)
    assert code == 0
    tower, template, generation = out.splitlines()
    assert tower.startswith("vision tower: gives the encoder's features (relative error ")
    assert "tokens, 9 of them the image; the answer follows it" in template
    assert generation == "generation: stops at '<|im_end|>', which ends a turn"


def test_doctor_shows_the_supervised_tokens(run, folder):
    code, out, _ = run("doctor", "labels", folder, "--question", "Is it a star?", "--answer", "no")
    assert code == 0
    assert "<9 image slots>\nIs it a star?\nAnswer the question" in out
    assert "<|im_start|>assistant\n[[no<|im_end|>]]\n" in out
    assert out.rstrip().endswith("'<|im_end|>'") and "supervised:" in out
