"""The installation: what it needs, and that it wins over folders of its name, such as the `vlm/` of every run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_a_folder_named_like_a_package_does_not_hide_it(tmp_path):
    for name in ("vlm", "pretrain", "bridge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import vlm; vlm.load; import pretrain.config, bridge.config; print(vlm.__name__, callable(vlm.load))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "vlm True\n"), done.stderr


@pytest.fixture
def set_up(tmp_path):
    """Sources a copy of scripts/setup.sh in a folder without .venv. It finds `stand_ins` in place of what is installed.

    stand_ins: name of a command -> the lines of a shell script. variables: of the environment.
    """

    def run(stand_ins: dict[str, str], **variables: str) -> subprocess.CompletedProcess:
        for folder in ("scripts", "bin"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("pyproject.toml", "scripts/versions.txt", "scripts/setup.sh"):
            shutil.copy(ROOT / name, tmp_path / name)
        for name, lines in stand_ins.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **variables}
        command = ["bash", "-c", ". scripts/setup.sh"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run


NO_ROOM = "echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'\necho 'd 9 9 287000 99% /'"
OLD_PYTHON = "[ $1 = --version ] && echo Python 3.9.18\n[ $1 = --version ]"


def test_nothing_is_installed_where_there_is_no_room(tmp_path, set_up):
    done = set_up({"df": NO_ROOM})
    error = f"error: {tmp_path}/.venv takes about 7 GB and 0 GB are free there: make room, or move this checkout\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    assert not (tmp_path / ".venv").exists()


def test_nothing_is_installed_into_a_python_that_is_too_old(tmp_path, set_up):
    done = set_up({"df": NO_ROOM, "python3": OLD_PYTHON})
    error = "error: python3 is Python 3.9.18, needed is 3.10 or newer: set PYTHON=/path/to/one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    done = set_up({}, PYTHON="/no/python")
    error = "error: /no/python is no Python, needed is 3.10 or newer: set PYTHON=/path/to/one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    assert not (tmp_path / ".venv").exists()
    done = set_up({}, PYTHON=sys.executable)  # python3 is still the old one
    assert done.returncode == 2 and "takes about 7 GB" in done.stderr


@pytest.mark.parametrize(("version", "taken"), [((3, 9, 99), False), ((3, 10, 0), True), ((4, 0, 0), True)])
def test_the_version_that_setup_needs_is_the_projects(version, taken):
    """The check itself, under an invented version; pyproject.toml says the same."""
    script = (ROOT / "scripts/setup.sh").read_text()
    check = script.split("-c 'import sys; ")[1].split("'")[0]
    code = f"import sys; sys.version_info = {version}; {check}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == (0 if taken else 1)
    assert 'requires-python = ">=3.10"' in (ROOT / "pyproject.toml").read_text()
