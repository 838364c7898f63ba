"""Being told to stop: what a command and a training loop do, the first and the second time; terminals that go away."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vlm.errors import run_command
from vlm.run import signals
from vlm.run.signals import Stopped, end_with_parent, keeping, stoppable

ROOT = Path(__file__).parents[3]


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def child(body: str, **options) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own."""
    names = "import os, sys, time\nfrom vlm.errors import run_command\nfrom vlm.run.signals import keeping, stoppable\n"
    return subprocess.run([sys.executable, "-c", names + body], cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "terminated"), (1, 129, "hung up")]
)
def test_a_command_says_in_one_line_that_it_was_stopped_and_what_it_kept(capsys, number, code, word):
    def main():
        with keeping("answers are in OUT"), keeping("all that is outside"):
            send(number)
            time.sleep(9)

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert (end.value.code, capsys.readouterr().err) == (code, f"{word}: all that is outside\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [2, 15, 1])
def test_a_loop_is_told_and_nothing_is_raised(capfd, number):
    with stoppable():
        with stoppable(deferred=True) as told:
            assert told() is None
            send(number)
            assert told() == number
        assert told() == number
    assert capfd.readouterr().err.endswith(": this step is finished and saved first; once more leaves at once\n")
    with stoppable() as told:
        assert told() is None


def test_no_ordinary_handler_keeps_a_signal():
    with pytest.raises(Stopped), stoppable():
        try:
            send(signal.SIGTERM)
            time.sleep(9)
        except Exception:
            pass


@pytest.mark.parametrize(("numbers", "code"), [("2, 2", 130), ("15, 2", 130), ("2, 15", 143), ("1, 1", 129)])
def test_the_second_time_leaves_at_once(numbers, code):
    send = f"for number in ({numbers}):\n        os.kill(os.getpid(), number)\n        time.sleep(0.05)\n"
    loop = f"def main():\n  with stoppable(deferred=True):\n    {send}    time.sleep(60)\nrun_command(main)"
    assert child(loop, timeout=30).returncode == code


def test_a_signal_while_libraries_leave_ends_the_process_at_once():
    slow = "import atexit\natexit.register(lambda: (os.kill(os.getpid(), 2), time.sleep(20)))\n"
    main = "def main():\n  os.kill(os.getpid(), 15)\n  time.sleep(20)\n"
    ended = child(slow + main + "run_command(main)", timeout=15)
    assert (ended.returncode, ended.stderr) == (143, "terminated\n")


def test_under_a_launcher_the_same_ctrl_c_comes_twice(monkeypatch):
    monkeypatch.setattr(signals, "_LAUNCHED", True)
    with stoppable(deferred=True) as told:
        send(signal.SIGINT, signal.SIGTERM, signal.SIGINT)  # the terminal, launch.py, torchrun
        assert told() == signal.SIGINT


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stoppable(deferred=True) as told:
            send(signal.SIGHUP)
            assert told() is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_change_nothing():
    def inside():
        with stoppable(deferred=True):
            found.append(signal.getsignal(signal.SIGTERM))

    found: list = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_a_loop_outlives_the_reader_of_its_output():
    """As `deepspeed ... | tee log`, whose tee dies of the Ctrl-C; other commands end with 141."""
    write = "for number in range(9):\n      print(number, flush=True)"
    ends = "import signal; signal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
    for body, code in (
        (f"def main():\n  with stoppable(deferred=True):\n    {write}\n  sys.exit(7)\nrun_command(main)", 7),
        (f"def main():\n    {write}\n    sys.exit(7)\nrun_command(main)", 141),
    ):
        source = "from vlm.errors import run_command\nfrom vlm.run.signals import stoppable\nimport sys\n" + ends + body
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run([sys.executable, "-c", source], cwd=ROOT, stdout=writing)
        os.close(writing)
        assert process.returncode == code


def test_a_command_outlives_its_terminal():
    source = "from vlm.errors import run_command\nimport sys\ndef main():\n  input()\n"
    source += "run_command(lambda: (sys.stdin.read(), print(1, flush=True), print(2, file=sys.stderr), sys.exit(7)))"
    ours, its = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdin=subprocess.PIPE, stdout=its, stderr=its)
    os.close(its)
    os.close(ours)  # what is printed now meets EIO
    process.communicate(b"")
    assert process.returncode == 7


def test_a_worker_ends_with_its_parent():
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            end_with_parent()
            os.write(writing, b"ready")
            time.sleep(60)
        os.read(os.pipe()[0], 1)  # for ever
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reading, 5) == b""  # the worker's end is closed too
