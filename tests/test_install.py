"""The installation: what it needs, and that it wins over folders of its name, such as the `vlm/` of every run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def test_nothing_is_installed_where_there_is_no_room(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/versions.txt", "scripts/setup.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    df = tmp_path / "bin/df"
    df.write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\necho 'd 9 9 287000 99% /'\n"
    )
    df.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "-c", ". scripts/setup.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    error = f"error: {tmp_path}/.venv takes about 7 GB and 0 GB are free there: make room, or move this checkout\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    assert not (tmp_path / ".venv").exists()
