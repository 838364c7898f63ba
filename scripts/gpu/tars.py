"""Pretraining end to end from JPEG tars, by its own command: images a second and MFU with all that a run does."""

import statistics
import tempfile
from pathlib import Path

from bench.loader import jpeg, photograph, write_tar

from gpu.check import Check, records
from gpu.pretrain import PAIR_FLOPS, PEAK, SMOKE

GOAL = 0.45  # MFU


def measure(check: Check) -> None:
    images, batch, steps = (24, 16, 4) if check.smoke else (512, 512, 40)
    sizes = [part for name, value in SMOKE.items() for part in (f"--{name.replace('_', '-')}", value)]
    with tempfile.TemporaryDirectory() as folder:
        files = [jpeg(photograph(seed)) for seed in range(4 if check.smoke else 64)]
        data, run = Path(folder) / "data", Path(folder) / "run"
        data.mkdir()
        write_tar(data / "train-00000.tar", [files[number % len(files)] for number in range(images)])
        flags = ["--preset", "base", "--tokenizer", "train:300", "--tracker", "none", "--log-every", max(2, steps // 8)]
        flags += ["--data", data, "--out", run, "--batch-size", batch, "--steps", steps, "--warmup-steps", 1]
        check.finish(check.start("pretrain/run.py", *flags, *(sizes if check.smoke else ())))
        found = records(run)[steps // 2 :]  # the first ones warm up
        rate = statistics.median(record["samples_per_s"] for record in found)
        waits = [record["data_wait_s"] for record in found if "data_wait_s" in record]
        values = {"data_wait_s": statistics.median(waits)} if waits else {}
        if check.smoke:
            check.note("tars", f"batch {batch}", images_per_s=rate, **values)
        else:
            mfu = PAIR_FLOPS * rate / PEAK
            check.note("tars", f"batch {batch}", mfu >= GOAL, images_per_s=rate, mfu=mfu, **values)
