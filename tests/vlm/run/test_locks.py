"""File systems without locks, such as Lustre mounted without `-o flock`: a run warns once and goes on."""

import errno
import os

import pytest

from vlm.errors import UserError
from vlm.run import folder
from vlm.run.folder import locked


def refuse_locks(monkeypatch, number: int) -> None:
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_a_run_goes_on(tmp_path, monkeypatch, capsys, number):
    refuse_locks(monkeypatch, number)
    ran = False
    with locked(tmp_path / "run"):
        ran = True
    assert ran and (tmp_path / "run/.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/run cannot be locked ({os.strerror(number)}): make sure that no second run writes there\n"
    )


def test_another_trouble_ends_the_run(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO)
    with (
        pytest.raises(UserError, match=r"^cannot write to .*/run \(Input/output error\): give another --out$"),
        locked(tmp_path / "run"),
    ):
        pass
