"""A dataclass field makes a flag: what is typed, what is refused and with which words, what --help shows."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from vlm.errors import UserError
from vlm.run.settings import build, check_bounds, flag, given, make_parser, parse, seed_setting, setting, trajectory


@dataclass(frozen=True)
class Settings:
    task: str = setting(help="what is measured", choices=("knn", "linear"), positional=True)
    data: str = setting(help="where captions are", metavar="D", by_content=True)
    files: tuple[str, ...] = setting((), help="what is read", positional=True)
    seed: int = setting(0, help="of random numbers")
    pool: int | None = setting(None, help="captions to choose from", least=2, default_text="50 % of them")
    lr: float = setting(1e-3, help="peak rate; 10 % is usual", above=0, group="optimization")
    warmup: float = setting(0.05, help="share of the steps", least=0, most=1, group="optimization")
    clip: float = setting(1.0, help="of the gradient", group="optimization")
    decay: float = setting(0.5, help="of weights", above=0, most=2.5)
    level: int = setting(3, help="of zip", most=9)
    large: int = setting(1_048_576, help="bytes", least=1_048_576)
    sizes: tuple[int, ...] = setting((224, 96), help="crops", least=8, choices=(224, 96, 4))
    weights: tuple[float, ...] = setting((), help="one each time", repeated=True, metavar="W", least=0)
    plan: bool = setting(False, help="only show the price", free=True)
    use_cache: bool = setting(True, help="compute everything again", free=True)


WORDS = {"prog": "probe.py", "about": "Measures 100 % of it.", "examples": "examples:\n  probe.py knn"}
LEAST = ("knn", "--data", "shards")  # the shortest command line that can be used


def read(*arguments: str) -> Settings:
    return parse(Settings, [*LEAST, *arguments], **WORDS)


def words(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        read(*arguments)
    return str(error.value)


def refusal(capsys, *arguments: str) -> str:
    """argparse's last line on stderr, where it ends the command with 2."""
    with pytest.raises(SystemExit) as end:
        parse(Settings, arguments, **WORDS)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_defaults_fill_what_is_not_given():
    assert read() == Settings(task="knn", data="shards")
    assert read().sizes == (224, 96) and read().use_cache is True and read().plan is False


def test_only_what_was_given_is_found():
    parser = make_parser(Settings, **WORDS)
    assert given(parser, LEAST) == {"task": "knn", "data": "shards"}
    found = given(parser, [*LEAST, "--seed", "0", "--plan", "--no-use-cache"])
    assert found == {"task": "knn", "data": "shards", "seed": 0, "plan": True, "use_cache": False}
    assert build(Settings, {"task": "linear", "data": "x", "level": 4, **found}).level == 4  # a preset's


def test_values_have_the_types_of_their_fields():
    config = read("--seed", "7", "--pool", "50", "--lr", "1e-2", "--sizes", "96", "224", "--weights", "1")
    assert (config.seed, config.pool, config.lr, config.sizes, config.weights) == (7, 50, 0.01, (96, 224), (1.0,))
    assert isinstance(config.weights[0], float)


def test_switches():
    config = read("--plan", "--no-use-cache")
    assert (config.plan, config.use_cache) == (True, False)


def test_a_repeated_flag_takes_one_value_each_time():
    assert read("--weights", "0.5", "--weights", "2").weights == (0.5, 2.0)


def test_positional_arguments():
    config = parse(Settings, ["linear", "a", "b", "--data", "d"], **WORDS)
    assert (config.task, config.files) == ("linear", ("a", "b"))

    @dataclass(frozen=True)
    class Report:
        runs: tuple[str, ...] = setting(help="folders", positional=True)
        out: str = setting("here", help="folder", metavar="DIR", positional=True)

    with pytest.raises(SystemExit):
        parse(Report, [], **WORDS)
    assert parse(Report, ["a", "b"], **WORDS) == Report(("a", "b"), "here")


def test_what_must_be_given_is_named(capsys):
    assert refusal(capsys, "knn") == "probe.py: error: the following arguments are required: --data"
    assert refusal(capsys, "--data", "d") == "probe.py: error: the following arguments are required: task"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--polo", "3"), "unrecognized arguments: --polo 3"),
        (("--see", "3"), "unrecognized arguments: --see 3"),  # no abbreviations
        (("--cache",), "unrecognized arguments: --cache"),
        (("--seed", "x"), "argument --seed: invalid int value: 'x'"),
        (("--sizes",), "argument --sizes: expected at least one argument"),
    ],
)
def test_what_the_parser_refuses(capsys, arguments, line):
    assert refusal(capsys, *LEAST, *arguments) == f"probe.py: error: {line}"


def test_choices_are_the_parsers_and_a_presets(capsys):
    assert "argument task: invalid choice: 'svm'" in refusal(capsys, "svm", "--data", "d")
    with pytest.raises(UserError, match=r"^task svm: give one of knn, linear$"):
        build(Settings, {"task": "svm", "data": "d"})
    with pytest.raises(UserError, match=r"^--sizes 7: give one of 224, 96, 4$"):
        check_bounds(replace(read(), sizes=(96, 7)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "1"), "--pool 1: give 2 or more"),
        (("--lr", "0"), "--lr 0.0: give a number above 0"),
        (("--lr", "nan"), "--lr nan: give a number above 0"),
        (("--warmup", "1.5"), "--warmup 1.5: give 0 to 1"),
        (("--warmup", "-0.5"), "--warmup -0.5: give 0 to 1"),
        (("--decay", "3"), "--decay 3.0: give a number above 0, 2.5 at most"),
        (("--level", "10"), "--level 10: give 9 or less"),
        (("--clip", "inf"), "--clip inf: give a finite number"),
        (("--large", "7"), "--large 7: give 1048576 or more"),
        (("--sizes", "224", "4"), "--sizes 4: give 8 or more"),
        (("--weights", "1", "--weights", "-2"), "--weights -2.0: give 0 or more"),
    ],
)
def test_bounds_name_the_flag_the_value_and_what_is_needed(arguments, message):
    assert words(*arguments) == message


def test_an_integer_of_any_size_is_finite():
    assert read("--seed", "1" + "0" * 400).seed == 10**400


def test_seeds_are_what_torch_and_numpy_take():
    @dataclass(frozen=True)
    class Seeds:
        seed: int = seed_setting(help="of all")
        seeds: tuple[int, ...] = seed_setting((0, 1), help="of each")

    top = 2**64 - 1
    check_bounds(Seeds(top, (3, top)))
    torch.Generator().manual_seed(top)
    assert len({np.random.default_rng([seed, 0]).integers(2**63) for seed in (top, top - 1, 2**63 - 1)}) == 3
    for refused in (Seeds(-1), Seeds(top + 1), Seeds(0, (0, top + 1))):
        with pytest.raises(UserError, match=r"^--seeds? (-1|18446744073709551616): give 0 to 18446744073709551615$"):
            check_bounds(refused)


def test_a_run_goes_on_with_the_settings_that_shape_it():
    kept = trajectory(read("--plan"))
    assert "plan" not in kept and "use_cache" not in kept and "data" not in kept
    assert kept["lr"] == 1e-3 and len(kept) == 12


def test_help_shows_defaults_groups_and_percent():
    text = make_parser(Settings, **WORDS).format_help()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Measures 100 % of it." in lines and text.endswith("examples:\n  probe.py knn\n")
    for line in (
        "task what is measured",
        "--data D where captions are",
        "--seed SEED of random numbers [0]",
        "--pool POOL captions to choose from [50 % of them]",
        "--weights W one each time",
        "--plan only show the price",
        "--no-use-cache compute everything again",
    ):
        assert line in lines, line
    assert "crops [224 96]" in text
    heading = lines.index("optimization:")
    assert lines[heading + 1 : heading + 4] == [
        "--lr LR peak rate; 10 % is usual [0.001]",
        "--warmup WARMUP share of the steps [0.05]",
        "--clip CLIP of the gradient [1.0]",
    ]


def test_a_switch_that_is_left_open_has_both_flags():
    @dataclass(frozen=True)
    class Switch:
        compiled: bool | None = setting(None, help="by torch")

    parser = make_parser(Switch, **WORDS)
    assert [given(parser, flags) for flags in ([], ["--compiled"], ["--no-compiled"])] == [
        {}, {"compiled": True}, {"compiled": False}
    ]  # fmt: skip


def test_mistakes_in_a_declaration_are_found():
    @dataclass(frozen=True)
    class Switch:
        on: bool = setting("False", help="bool('False') is True")

    with pytest.raises(TypeError, match="the field on is a switch: its default must be True, False or None"):
        make_parser(Switch, **WORDS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lest'"):
        setting(3, help="misspelt", lest=2)


def test_a_flag_is_written_with_hyphens():
    assert flag("micro_batch_size") == "--micro-batch-size"
