"""`vlm chat` on a terminal: Ctrl-C, leaving, and what it shows while it works."""

import re
import signal
import subprocess
import sys

import commands
import pytest


@pytest.fixture
def picture_file(picture, tmp_path):
    picture.save(tmp_path / "my dog.png")
    return tmp_path / "my dog.png"


def chat(saved, *arguments):
    return commands.Terminal("-m", "vlm.cli", "chat", str(saved / "qwen2"), *map(str, arguments))


def test_ctrl_c_stops_the_answer_and_not_the_program(saved, picture_file):
    terminal = chat(saved, "--image", picture_file, "--max-new-tokens", "30000", "--stats")
    begin = terminal.until("> ")
    assert "loading " in begin or "starting" in begin
    assert re.search(r"qwen2: \w+ on cpu, \d+\.\d s", begin) and "/image PATH" in begin
    terminal.type("What is it?\n")
    terminal.until("What is it?\r\n")  # the echo
    terminal.until(" ")  # the answer has begun
    terminal.type("\x03")
    stopped = terminal.until("> ")
    assert "stopped" in stopped and " tokens in " in stopped and "Traceback" not in stopped
    # At the prompt it clears the line; the next line is read as ever.
    terminal.type("half a ques")
    terminal.until("half a ques")  # the echo: readline waits for keys
    assert "Ctrl-C again, or Ctrl-D, leaves" in terminal.interrupt("\n> ")
    terminal.type(f"/image {str(picture_file).replace(' ', chr(92) + ' ')} \n")
    assert f"looking at {picture_file}" in terminal.until("\n> ")
    terminal.type(f"{picture_file}\n")  # dropped without a command
    assert f"looking at {picture_file}" in terminal.until("\n> ")
    terminal.type("quit\n")
    assert terminal.end()[0] == 0


def test_a_second_ctrl_c_at_the_prompt_leaves_with_130(saved):
    terminal = chat(saved)
    assert "No picture yet: begin with /image PATH." in terminal.until("> ")
    terminal.type("/image gone.png\n")
    assert "cannot read the image gone.png" in terminal.until("\n> ")
    terminal.type("Is it?\n")
    assert "error: there is no picture" in terminal.until("\n> ")
    terminal.type("a")
    terminal.until("a")
    terminal.interrupt("leaves")
    terminal.until("> ")
    terminal.type("b")
    terminal.until("b")
    said = terminal.interrupt("interrupted")
    code, rest = terminal.end()
    assert code == 130 and "Traceback" not in said + rest


def test_ctrl_c_ends_a_pipe_and_a_reader_that_goes_is_no_traceback(saved):
    command = [sys.executable, "-m", "vlm.cli", "chat", str(saved / "qwen2"), "--device", "cpu"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = subprocess.Popen([*command, "--max-new-tokens", "2"], **pipes, text=True, cwd=commands.ROOT)
    assert running.stdin and running.stdout and running.stderr
    running.stdin.write("Is it?\n" * 2)
    running.stdin.flush()
    running.stdout.readline()
    running.send_signal(signal.SIGINT)
    assert running.wait(240) == 130
    assert running.stderr.read() == "interrupted\n"
    running = subprocess.Popen([*command, "--max-new-tokens", "2"], **pipes, text=True, cwd=commands.ROOT)
    assert running.stdin and running.stdout and running.stderr
    running.stdin.write("Is it?\n" * 3)
    running.stdout.close()
    running.stdin.close()
    assert running.wait(240) == 141
    assert running.stderr.read() == ""
