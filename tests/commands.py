"""Commands in processes of their own, as a user starts them."""

import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(
    script: str, *arguments, launcher: tuple[str, ...] = (), timeout: float = 480, **variables: str
) -> subprocess.CompletedProcess:
    """Run `python script arguments` in the repository's root, on one CPU thread and without network.

    launcher: what stands between python and the script, as ("-m", "torch.distributed.run"). variables: of the
    environment.
    """
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **fixed, **variables}
    command = [sys.executable, *launcher, script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def output(script: str, *arguments, expect: int = 0, **options) -> str:
    """What the command prints, stdout before stderr, once it has exited with the code `expect`."""
    done = start(script, *arguments, **options)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def beside_one_that_hangs(script: str, *arguments) -> subprocess.CompletedProcess:
    """Run the script as the first of two processes, of which the second joins and does nothing."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    joins = "import time, torch.distributed as dist; dist.init_process_group('gloo'); time.sleep(900)"
    second = subprocess.Popen([sys.executable, "-c", joins], env={**os.environ, **where, "RANK": "1"})
    try:
        return start(script, *arguments, RANK="0", LOCAL_RANK="0", **where)
    finally:
        second.kill()
        second.wait()


def _at_a_terminal() -> None:
    """Before a command starts: typed keys are for it, and Ctrl-C is SIGINT, even if the tests' shell ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command that believes itself on a terminal: both its outputs come as one text, and what is typed is echoed."""

    def __init__(self, *command: str, **environment: str):
        self.ours, its = pty.openpty()
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TERM": "dumb", **environment}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=variables,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=_at_a_terminal,
        )
        os.close(its)

    def type(self, text: str) -> None:
        """Type; "\x03" is Ctrl-C, "\x04" Ctrl-D."""
        os.write(self.ours, text.encode())

    def until(self, awaited: str, timeout: float = 120) -> str:
        """Read until `awaited` has come, and return all that came up to its end; later output waits for the next."""
        text, deadline = "", time.monotonic() + timeout
        while awaited not in text:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{awaited!r} did not come, but {text!r}"
            text += self._read()
        return text

    def interrupt(self, awaited: str) -> str:
        """Press Ctrl-C at a prompt, and read until `awaited` has come.

        A signal that comes in the moment before readline waits for keys is met at the next one: it is pressed again.
        """
        for _ in range(10):
            self.type("\x03")
            if select.select([self.ours], [], [], 5)[0]:
                return self.until(awaited)
        raise AssertionError(f"Ctrl-C was not answered by {awaited!r}")

    def end(self, timeout: float = 60) -> tuple[int, str]:
        """The exit code, and what still came."""
        text = ""
        while part := self._read():
            text += part
        os.close(self.ours)
        return self.process.wait(timeout), text

    def _read(self) -> str:
        try:
            return os.read(self.ours, 1).decode("utf-8", "replace")
        except OSError:  # Linux says so when the other side is closed
            return ""
