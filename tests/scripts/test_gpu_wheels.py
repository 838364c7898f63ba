"""scripts/gpu_wheels.sh with a stand-in for pip: what it did not make stays, and a failure changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/gpu_wheels.sh"
# As `python -m pip download|wheel ... FOLDER NAME`: an empty wheel of version 9; $BROKEN cannot be fetched.
PYTHON = f"""#!/bin/bash
[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"
name="${{@: -1}}" name="${{name%%==*}}"
for argument in "$@"; do [[ "$before" = -[dw] ]] && folder="$argument"; before="$argument"; done
[ "$name" != "$BROKEN" ] || exit 1
wheel="$folder/${{name//-/_}}-9.0-py3-none-any.whl"
{sys.executable} -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1], "w").close()' "$wheel"
"""
THEIRS = ("torch-2.9.0-cp312-cp312-linux_x86_64.whl", "pydantic_settings-2.0-py3-none-any.whl", "notes.txt")
OLDER = ("pydantic-2.0-py3-none-any.whl", "hjson-3.0-py3-none-any.whl")


@pytest.fixture
def gather(tmp_path):
    """Runs the script on a folder with wheels of others and older ones -> exit code, names in the folder."""
    out = tmp_path / "my wheels"
    out.mkdir()
    for name in THEIRS + OLDER:
        (out / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "tmp").mkdir()

    def run(broken: str = "") -> tuple[int, set[str]]:
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python"), "BROKEN": broken}
        done = subprocess.run(["bash", SCRIPT, out], env={**environment, "TMPDIR": str(tmp_path / "tmp")}, text=True)
        assert not any((tmp_path / "tmp").iterdir())
        return done.returncode, {path.name for path in out.iterdir()}

    return run


def test_only_older_wheels_of_the_same_packages_are_replaced(gather):
    code, names = gather()
    made = {name for name in names if name.endswith("-9.0-py3-none-any.whl")}
    assert code == 0 and names == {*THEIRS, *made}
    assert len(made) == 13 and {"pydantic-9.0-py3-none-any.whl", "bitsandbytes-9.0-py3-none-any.whl"} < made


def test_a_failure_changes_nothing(gather):
    code, names = gather("bitsandbytes")  # the last that is fetched
    assert code == 1 and names == {*THEIRS, *OLDER}
