"""The training command on tiny parts, and small official files that several tests of the bridge read."""

import os
from pathlib import Path

import commands
import evaluating
import pytest
import torch
from safetensors.torch import load_file
from tiny.encoders import encoder_config
from tiny.llms import words_of, write_chatml_llama
from tiny.official import vqav2_annotation, vqav2_question, write_benchmarks, write_training_sets

from vlm.encoders.levljepa import new_encoder
from vlm.files import read_jsonl, write_json

WORDS = "What colour is it? red green blue yes no Is it assistant user Answer the question using a single word"
SETTINGS = ("--steps", "12", "--batch-questions", "20", "--lr", "0.05", "--save-every", "5", "--precision", "fp32")


@pytest.fixture(scope="session")
def benchmark_files(tmp_path_factory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="session")
def world(benchmark_files) -> Path:
    """The benchmarks that are evaluated on."""
    return benchmark_files


@pytest.fixture(scope="session")
def evaluated(world, tiny_vlm, tmp_path_factory) -> Path:
    """The output folder of an uninterrupted run in a process of its own."""
    out = tmp_path_factory.mktemp("eval")
    printed = evaluating.run(tiny_vlm.parent, world, out, "--max-new-tokens", "5")
    lines = printed.splitlines()
    assert f"written: {out / 'results.json'}, every type in {out / 'details.txt'}" in lines
    assert "POPE's random file has 4 questions: neither of POPE's own files" in lines
    by_type = {line.partition(":")[0] for line in lines}
    assert {"GQA by structural type", "VQAv2 by answer type", "POPE random", "POPE adversarial"} <= by_type
    assert "per question type" in (out / "details.txt").read_text()
    return out


@pytest.fixture
def vqav2_files(tmp_path) -> tuple:
    """Flags of bridge/score.py: two of VQAv2's questions and their annotations."""

    def written(name: str, value: dict) -> Path:
        write_json(tmp_path / name, value)
        return tmp_path / name

    records = [vqav2_annotation(5, "aabbbbbbbb"), vqav2_annotation(6, "aabbbbbbbb", "is it", "yes/no")]
    questions = [vqav2_question(5, 1, "?"), vqav2_question(6, 1, "?")]
    return (
        *("--questions", written("q.json", {"questions": questions})),
        *("--annotations", written("a.json", {"annotations": records})),
    )


class Training:
    """The training command on tiny parts in `root`: `llm`, `encoder`, `gqa`, `vqav2`."""

    def __init__(self, root: Path):
        self.root = root
        write_chatml_llama(root / "llm", words_of(WORDS), initializer_range=0.2)
        write_training_sets(root)
        new_encoder(encoder_config(), seed=1).save(root / "encoder")

    def flags(self, out: Path, *more: str) -> list[str]:
        """The flags of a run into `out` on both data sets; `more` may name other parts."""
        given = ["--gqa", str(self.root / "gqa"), "--vqav2", str(self.root / "vqav2"), "--out", str(out), *SETTINGS]
        for part in ("llm", "encoder"):
            if "--init" not in more and f"--{part}" not in more:
                given += [f"--{part}", str(self.root / part)]
        return [*given, *more]

    def run(self, out: Path, *more: str) -> None:
        """Train in this process, which has the libraries loaded already."""
        from bridge.config import parse_config
        from bridge.loop import train
        from bridge.train import load_examples

        config = parse_config(self.flags(out, *more))
        train(config, load_examples(config))

    @staticmethod
    def command(*arguments: str, launcher: tuple[str, ...] = (), expect: int = 0) -> str:
        """Train in a process of its own, as a user starts it. Returns its output, stdout before stderr."""
        return commands.output("bridge/train.py", *arguments, launcher=launcher, expect=expect)

    @staticmethod
    def metrics(out: Path) -> list[dict]:
        return list(read_jsonl(out / "metrics.jsonl"))

    @classmethod
    def losses(cls, out: Path) -> list[float]:
        return [line["loss"] for line in cls.metrics(out)]

    @staticmethod
    def weights(out: Path) -> dict[str, torch.Tensor]:
        """The trained weights after the last step, by name."""
        return load_file(out / "checkpoints/step_12/weights.safetensors")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """Features and questions of these tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache/matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def training(tmp_path_factory) -> Training:
    return Training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def whole(training, tmp_path_factory) -> Path:
    """An uninterrupted run, by the command."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:  # no test before it has filled this cache
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        output = training.command(*training.flags(out))
    assert f"saved {out / 'vlm'}" in output
    assert "features: 24 of 48 images to encode" in output  # each of GQA is one of VQAv2 too
    assert "DeepSpeed" not in output and "get_accelerator" not in output
    return out
