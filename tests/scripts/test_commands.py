"""Every script's command line: help with examples, fast; a bad value is one line and exit code 2."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
OURS = (SCRIPTS, SCRIPTS.parent / "tests")
COMMANDS = sorted(path.name for path in SCRIPTS.glob("*.py"))
SHELL_COMMANDS = sorted(path.name for path in SCRIPTS.glob("*.sh") if path.name != "setup.sh")  # which is sourced
WRONG = {
    "bench_bridge.py": (["--layers", "29"], "error: --layers 29: give 1 to 28"),
    "bench_evaluate.py": (["--questions", "49"], "error: --questions 49: give 1 to 48"),
    "bench_loader.py": (["--seconds", "0"], "error: --seconds 0.0: give a number above 0"),
    "bench_probe.py": (["--images", "8"], "error: --images 8: give 16 or more"),
    "bench_sigreg.py": (["--pairs", "0"], "error: --pairs 0: give 1 or more"),
    "bench_step.py": (["--pairs", "0"], "error: --pairs 0: give 1 or more"),
    "bench_training_sets.py": (["nowhere"], "error: nowhere has no synthetic files: write them with --make"),
    "bench_zero.py": (["--steps", "1"], "error: --steps 1: give 2 or more"),
    "fault_sweep.py": (["--kills", "0"], "error: --kills 0: give 1 or more"),
    "gpu_check.py": (["--minutes", "0"], "error: --minutes 0.0: give a number above 0"),
    "make_world.py": (["x", "--scenes", "3"], "error: --scenes 3: give 4 to 1000000"),
    "paper_table.py": (["nowhere", "--out", "x"], "error: none of the 1 folders has a place in the table"),
    "prepare_data.py": (["gqa", ".", "--check-images", "0"], "error: --check-images 0: give all or a number above 0"),
    "prepare_easy_vqa.py": (["x", "--val-fraction", "0"], "error: --val-fraction 0.0: give"),
    "prepare_pictures.py": (["x"], "error: no pictures: give --emoji, --openclipart or --tuxpaint"),
    "prepare_manifest.py": (["x", "--verify", "--sha256"], "error: --verify compares with what --sha256 recorded"),
    "probe_world.py": (["nowhere", "nowhere"], "error: "),
    "show_answers.py": (["world", "eval", "--seed", "-1"], "error: --seed -1: give 0 to 18446744073709551615"),
    "study.py": (["--encoders", "random:clip"], "error: --encoders random-clip: clip is no encoder of this study"),
}
# What a command cannot do without; the others need nothing.
REQUIRED = {
    "bench_training_sets.py": ["x"],
    "make_world.py": ["x"],
    "paper_table.py": ["x", "--out", "x"],
    "prepare_data.py": ["gqa", "x"],
    "prepare_easy_vqa.py": ["x"],
    "prepare_manifest.py": ["x"],
    "prepare_pictures.py": ["x"],
    "probe_world.py": ["x"],
    "show_answers.py": ["x", "x"],
}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, cwd=SCRIPTS.parent
    )


def test_every_command_is_tried():
    assert set(COMMANDS) == set(WRONG)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_fast_and_has_examples(name):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(name, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "examples:\n" in done.stdout and f"python scripts/{name}" in done.stdout
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1


@pytest.mark.parametrize("name", SHELL_COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_shell_scripts_does_nothing_else(tmp_path, name, flag):
    done = subprocess.run([SCRIPTS / name, flag], capture_output=True, text=True, cwd=tmp_path, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
    examples = done.stdout.split("examples:\n")[1]
    assert "usage: " in done.stdout and f"scripts/{name}" in examples
    assert "#" not in done.stdout and "set -" not in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_value_is_one_line_and_exit_code_2(name):
    arguments, message = WRONG[name]
    done = run(name, *arguments)
    assert done.returncode == 2
    assert done.stdout == "" or name == "probe_world.py"
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flags_are_errors(name):
    done = run(name, *REQUIRED.get(name, []), "--unheard-of")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("error: unrecognized arguments: --unheard-of")


def test_nothing_in_scripts_hides_an_installed_module():
    """Python puts scripts/ first on sys.path, before the standard library."""
    import importlib.machinery

    elsewhere = [path for path in sys.path if Path(path or ".").resolve() not in OURS]
    names = {path.stem for path in SCRIPTS.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__pycache__"}
    assert names >= {"bench", "checks", "study", "world"}
    for name in names:
        assert name not in sys.stdlib_module_names
        assert importlib.machinery.PathFinder.find_spec(name, elsewhere) is None, name
