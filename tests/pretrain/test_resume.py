"""Runs that go on from a checkpoint, at the same or another ZeRO stage and number of processes, 2 or 1.

Two ranks and a process of its own train side by side, in one start. A run is called PROCESSES.STAGE of its origin, and
`two.0>one.3` is the run that went on with two.0's checkpoint of step 7, in one process at ZeRO 3.
"""

import json
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

SIZES: dict[str, Any] = dict(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
    text_heads=2, embed_dim=8, projector_width=16, batch_size=8, tokenizer="train:300", warmup_steps=2, log_every=1,
    steps=10, save_every=7, tracker="none", dtype="fp32",
)  # fmt: skip
WHOLE = {"two": ["two.0", "two.1", "two.2", "two.3", "two.3 siglip"], "one": ["one.1"]}
RESUMED = {
    "two": [
        "two.0>two.0", "two.1>two.1", "two.2>two.2", "two.3>two.3", "two.1>two.2", "two.3>two.0", "two.2>two.3",
        "one.1>two.3", "one.1>two.1",
    ],
    "one": ["one.1>one.1", "two.0>one.3", "two.3>one.2", "two.2>one.0", "two.3 siglip>one.1"],
}  # fmt: skip
ALL = [*RESUMED["two"], *RESUMED["one"]]


def train_runs(index: int, data: Path, folder: Path, port: int, origins_done: Any) -> None:
    """What each of the three processes does: ranks 0 and 1 of two, and the one."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    group = "two" if index < 2 else "one"
    if group == "two":
        os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    from pretrain import checkpoints, train
    from pretrain.config import from_preset
    from vlm.distributed import barrier, is_main, rank
    from vlm.run.checkpoints import Checkpoints

    class Recorder(train.Recorder):
        """Also writes which samples this rank saw."""

        def add(self, step, lr, metrics, probes, ids):
            with open(self.path.with_name(f"ids.{rank()}.jsonl"), "a") as file:
                print(json.dumps([step, ids]), file=file)
            super().add(step, lr, metrics, probes, ids)

    def build_model(config, *arguments):
        """Also freezes a parameter, whose value is another one in the runs that are not gone on with."""
        model = original_build(config, *arguments)
        frozen = model.encoder.vision.pos_embed.requires_grad_(False)
        frozen += 0 if ">" in config.out else 0.125
        return model

    def loop(engine, batches, recorder, watch, kept, config):
        """Also saves again what was loaded, before the first step."""
        if batches.steps.start:
            checkpoints.save(engine, Checkpoints(kept.run / "again", {}), batches.steps.start, recorder.state())
        original_loop(engine, batches, recorder, watch, kept, config)

    original_build, original_loop = train.build_model, train.loop
    train.build_model, train.loop, train.Recorder = build_model, loop, Recorder
    checkpoints.FILE_BYTES = 20_000  # so that every rank writes several files

    def run(name):
        where = name.split(">")[-1]
        settings = dict(SIZES, data=str(data), out=str(folder / name), zero=int(where[4]))
        if "siglip" in name:
            settings |= {"objective": "siglip"}
        else:
            settings |= {"projector_depth": 2, "directions": 32}
        train.train(from_preset("tiny", **settings))

    for name in WHOLE[group]:
        run(name)
    origins_done.wait(300)
    for name in RESUMED[group]:
        if is_main():
            origin = folder / name.split(">")[0]
            shutil.copytree(origin / "checkpoints/step_7", folder / name / "checkpoints/step_7")
        barrier()
        run(name)


@pytest.fixture(scope="module")
def runs(captions, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    origins_done = mp.get_context("spawn").Barrier(3)
    mp.spawn(train_runs, args=(captions, folder, port, origins_done), nprocs=3)
    return folder


def losses(run: Path) -> list[float]:
    """Of steps 7 to 9."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["step"] >= 7]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors in the files of a checkpoint."""
    files = [load_file(file) for file in checkpoint.glob("*.safetensors")]
    return {name: value for file in files for name, value in file.items()}


def samples(run: Path) -> list[tuple[int, str]]:
    """Step and id of every sample that a run saw, in the order of the rows of all its ranks."""
    lines = [
        (step, rank, ids)
        for rank, file in enumerate(sorted(run.glob("ids.*.jsonl")))
        for step, ids in map(json.loads, file.read_text().splitlines())
    ]
    return [(step, name) for step, _, ids in sorted(lines) for name in ids]


def test_a_checkpoint_is_the_same_whoever_writes_it(runs):
    """What was loaded is saved again, at another stage, by another number of processes, to the last bit."""
    for name in ALL:
        before, again = runs / name / "checkpoints/step_7", runs / name / "again/checkpoints/step_7"
        whole, loaded = tensors(before), tensors(again)
        assert whole.keys() == loaded.keys()
        assert all(torch.equal(value, loaded[key]) for key, value in whole.items()), name
        assert json.loads((again / "state.json").read_text()) == json.loads((before / "state.json").read_text())


def test_what_a_checkpoint_holds(runs):
    for name in ("two.0", "two.3", "one.1"):
        folder = runs / name / "checkpoints/step_7"
        states = [f"state-{number:05}-of-00008.safetensors" for number in range(1, 9)]
        assert sorted(os.listdir(folder)) == ["buffers.safetensors", "manifest.json", *states, "state.json"]
        state = json.loads((folder / "state.json").read_text())
        assert (state["format"], state["step"], state["updates"]) == (1, 7, 7)
        assert state["recorder"]["failures"] == 0 and state["recorder"]["peaks"] == {}  # none before step 20
        held = tensors(folder)
        kinds = Counter(key.split("/")[0] for key in held)
        assert kinds == {"weight": 66, "exp_avg": 65, "exp_avg_sq": 65, "buffer": 18}  # one parameter is frozen
        assert {value.dtype for key, value in held.items() if not key.startswith("buffer/")} == {torch.float32}
        assert held["weight/encoder.image.encoder.patch_embed.proj.weight"].shape == (16, 3, 8, 8)


def test_a_run_goes_on_to_the_last_bit_with_as_many_processes(runs):
    for name in ("two.0>two.0", "two.1>two.1", "two.2>two.2", "two.3>two.3", "two.1>two.2", "one.1>one.1"):
        origin = runs / name.split(">")[0]
        assert losses(runs / name) == losses(origin), name
        # ZeRO 1 and 2 reduce in the same order: the change between them shows nowhere either.
        for file in ("encoder/vision_encoder.safetensors", "encoder/text_encoder.safetensors"):
            assert (runs / name / file).read_bytes() == (origin / file).read_bytes(), name


def test_another_stage_or_number_of_processes_changes_no_more_than_rounding(runs):
    for name in ALL:
        allowed = 2e-5 if "siglip" in name else 1e-6  # a loss of 5.5, which sums 64 logits
        assert losses(runs / name) == pytest.approx(losses(runs / name.split(">")[0]), rel=0, abs=allowed), name


def test_no_sample_is_skipped_or_repeated(runs):
    whole = samples(runs / "one.1")
    seen = Counter(name for _, name in whole)
    assert len(seen) == 40 and set(seen.values()) == {2}  # 10 steps of 8 are two epochs
    for name in WHOLE["two"]:
        assert samples(runs / name) == whole
    for name in ALL:
        assert samples(runs / name) == whole[7 * 8 :], name
