"""The `vlm` command answers at once: nothing heavy is imported before a model is needed."""

import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = ("torch", "transformers", "numpy", "PIL", "timm", "gradio")


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vlm.cli", *arguments], capture_output=True, text=True
    )


def imported(log: str) -> set[str]:
    """Top-level names in the output of `-X importtime`: lines of "import time: self | total | name"."""
    return {line.split("|")[-1].strip().split(".")[0] for line in log.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["chat", "--help"], ["web", "--help"], ["features", "--help"], ["doctor", "--help"], ["--version"]],
)
def test_help_and_version_import_nothing_heavy(arguments):
    done = command(*arguments)
    assert done.returncode == 0
    names = imported(done.stderr)
    assert "argparse" in names and not names & set(HEAVY)


def test_the_version_is_the_installed_one():
    assert command("--version").stdout == f"levlm {version('levlm')}\n"
