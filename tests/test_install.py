"""The installed package wins over folders of its name, such as the `vlm/` that every run holds."""

import os
import subprocess
import sys


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
