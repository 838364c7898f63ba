"""Processes of an evaluation wait for one that is slow, and end if one hangs."""

import os
import subprocess
import sys

import commands
import pytest

from bridge.evaluation.pulse import Pulse

MAIN = """
import sys, time
from bridge.evaluation.team import joined_team
from vlm.errors import run_command

def main():
    with joined_team() as team:
        team.minutes = 1 / 60
        team.gather(None)
        if team.rank == 1:
            for _ in range(8):
                time.sleep(0.3)
                team.count("gqa", 1)
            if sys.argv[1] == "hangs":
                time.sleep(600)
        print(sum(team.gather(team.rank)))

run_command(main)
"""


@pytest.fixture
def three(request):
    """Three processes of `MAIN`, of which the second is slow, or slow and then hangs."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": commands.free_port(), "WORLD_SIZE": "3"}
    options = {"cwd": commands.ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", MAIN, request.param]
    started = [subprocess.Popen(command, env={**os.environ, **where, "RANK": str(n)}, **options) for n in range(3)]
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("three", ["slow"], indirect=True)
def test_one_that_answers_is_waited_for_longer_than_the_limit(three):
    assert [process.communicate(timeout=120) for process in three] == [("3\n", "")] * 3
    assert [process.returncode for process in three] == [0, 0, 0]


@pytest.mark.parametrize("three", ["hangs"], indirect=True)
def test_one_that_hangs_is_named_once_and_ends_the_others(three):
    texts = [three[rank].communicate(timeout=120)[1] for rank in (0, 2)]
    (told,) = [line for text in texts for line in text.splitlines() if "hangs" in line]
    assert " waited 0.0166667 minutes for rank 1, which hangs or is too slow: the answers so far are kept" in told
    assert [three[rank].returncode for rank in (0, 2)] == [1, 1] and three[1].poll() is None
    assert "Traceback" not in "".join(texts)


def test_one_that_waits_ends_when_the_store_has_gone():
    """Its process may have named the one that hangs a moment before, and gloo need not notice."""

    class Gone:
        def add(self, key, amount):
            raise RuntimeError("Connection was closed")

    pulse = Pulse(Gone(), rank=2, size=3)
    assert [pulse.late(waited=4.0, limit=7200.0) for _ in range(3)] == [[], [], [0, 1]]
    assert not pulse.first_to_tell()
