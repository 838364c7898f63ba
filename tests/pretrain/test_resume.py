"""Runs that go on from a checkpoint, at the same or another ZeRO stage and number of processes, 2 or 1.

Two ranks and a process of its own train side by side, in one start. A run is called PROCESSES.STAGE of its origin, and
`two.0>one.3` is the run that went on with two.0's checkpoint of step 7, in one process at ZeRO 3.
"""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

SIZES: dict[str, Any] = dict(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
    text_heads=2, embed_dim=8, projector_width=16, batch_size=8, tokenizer="train:300", warmup_steps=2, log_every=1,
    steps=10, save_every=7, tracker="none",
)  # fmt: skip
WHOLE = {"two": ["two.0", "two.1", "two.2", "two.3", "two.3 siglip"], "one": ["one.0", "one.1"]}
RESUMED = {
    "two": [
        *(f"two.{stage}>two.{stage}" for stage in range(4)),
        *(f"two.{stage}>two.{(stage + 1) % 4}" for stage in range(4)),
        "two.3 siglip>two.3", "one.0>two.3", "one.1>two.2",
    ],
    "one": ["two.0>one.3", "two.1>one.0", "two.2>one.1", "two.3>one.2", "two.3 siglip>one.0", "one.1>one.1"],
}  # fmt: skip


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

    def loop(engine, batches, recorder, watch, kept, config):
        """Also saves again what was loaded, before the first step."""
        if batches.steps.start:
            checkpoints.save(engine, Checkpoints(kept.run / "again", {}), batches.steps.start, recorder.state())
        original(engine, batches, recorder, watch, kept, config)

    original, train.loop, train.Recorder = train.loop, loop, Recorder
    checkpoints.FILE_BYTES = 20_000  # so that every rank writes several files

    def run(name: str) -> None:
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


def losses(run: Path) -> list[str]:
    """Of the steps from 7 on, to the last bit."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"].hex() for record in records if record["step"] >= 7]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in checkpoint.glob("*.safetensors"):
        found |= load_file(file)
    return found


ALL = [*RESUMED["two"], *RESUMED["one"]]


def test_figures(runs):
    for name in WHOLE["two"] + WHOLE["one"] + ALL:
        print(name, losses(runs / name))
    for name in ALL:
        o, w = name.split(">")
        print(name, [abs(float.fromhex(a) - float.fromhex(b)) for a, b in zip(losses(runs / o), losses(runs / name))])
