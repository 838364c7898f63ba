"""What ZeRO saves: bytes that each of two CPU processes holds at stages 0-3, beside the plan and DeepSpeed's estimate.

The steps are those of pretraining on random pixels and tokens; the losses of all stages must agree.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tables import row

from pretrain.config import PretrainConfig, from_preset
from pretrain.price import checkpoint_bytes, model_states, parameters
from vlm.errors import UserError, run_command
from vlm.files import read_json, write_json

RANKS, TOLERANCE = 2, 1e-4
BUCKET = 0.2  # of the parameters, as the base preset's; the real one would hold all of this small model
VOCABULARY, TOKENS = 1024, 20
KINDS = ("weights", "master copy", "gradients", "moments", "bucket")
EXAMPLES = """examples:
  python scripts/bench_zero.py                                a few minutes
  python scripts/bench_zero.py --stages 0 3 --width 512 --steps 3
"""


def configuration(width: int, stage: int) -> PretrainConfig:
    sizes = dict(vision_width=width, text_width=width, vision_heads=4, text_heads=4, projector_width=2 * width)
    return from_preset("tiny", zero=stage, batch_size=16, warmup_steps=2, **sizes)


def size(tensors, seen: set[int]) -> int:
    """Bytes of the tensors' storages, each counted once over all calls that share `seen`."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    new = {pointer: bytes_ for pointer, bytes_ in storages.items() if pointer not in seen}
    seen.update(new)
    return sum(new.values())


def tensors_in(value) -> list[torch.Tensor]:
    """All tensors in nested dicts and lists."""
    if torch.is_tensor(value):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def holdings(engine) -> dict[str, int]:
    """Bytes that this process holds now, by kind."""
    wrapper, seen = engine.optimizer, set()
    inner, weights = getattr(wrapper, "optimizer", wrapper), list(engine.module.parameters())
    partitions = [p.ds_tensor for p in weights if hasattr(p, "ds_tensor")]
    own = [p.grad for p in weights if p.grad is not None]
    reduced = [getattr(wrapper, name, None) for name in ("averaged_gradients", "grad_partitions_flat_buffer")]
    moments = [state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq") if name in state]
    master = [group["params"] for group in inner.param_groups] + getattr(wrapper, "fp32_partitioned_groups_flat", [])
    return {  # in this order: gradients on their way are views of the bucket
        "weights": size([p.data for p in weights] + partitions, seen),
        "bucket": size(tensors_in([bucket.buffer for bucket in getattr(wrapper, "ipg_buckets", {}).values()]), seen),
        "gradients": size(own + tensors_in(reduced), seen),
        "moments": size(moments, seen),
        "master copy": size(tensors_in(master), seen),
    }


def work(stage: int, width: int, steps: int, out: Path) -> None:
    """One rank: train, and leave in OUT/STAGE.RANK.json the most it held, its losses and its checkpoint's size."""
    from pretrain import checkpoints, zero
    from pretrain.batchnorm import GlobalBatchNorm1d
    from pretrain.model import Pretrainer, encoder_config, parameter_groups, use_fast_attention
    from pretrain.objective import levljepa
    from vlm.distributed import rank
    from vlm.encoders.levljepa import new_encoder

    torch.set_num_threads(1)
    zero.start_processes()
    config, before = configuration(width, stage), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder = new_encoder(encoder_config(config, VOCABULARY), 0, norm=GlobalBatchNorm1d)
    largest = max(sum(p.numel() for p in layer.parameters(recurse=False)) for layer in encoder.modules())
    use_fast_attention(encoder, zero.device())
    zero.REDUCE_BUCKET_SIZE = int(BUCKET * sum(p.numel() for p in encoder.parameters()))
    engine = zero.start_engine(Pretrainer(encoder), parameter_groups(encoder, config.weight_decay), config, RANKS)
    most: dict[str, int] = {}

    def watch(_=None) -> None:
        nonlocal most
        most = max(most, holdings(engine), key=lambda held: sum(held.values()))

    for parameter in engine.module.parameters():
        parameter.register_post_accumulate_grad_hook(watch)
    generator, losses = torch.Generator().manual_seed(rank()), []
    for step in range(steps):
        pixels = torch.randn(config.batch_size // RANKS, 3, config.image_size, config.image_size, generator=generator)
        ids = torch.randint(VOCABULARY, (len(pixels), TOKENS), generator=generator)
        embeddings = engine(pixels, ids, torch.full((len(ids),), TOKENS))
        weights = dict(lambda_image=config.lambda_image, lambda_text=config.lambda_text)
        loss, _ = levljepa(embeddings, **weights, directions=config.directions, seed=0, step=step)
        engine.backward(loss)
        watch()
        zero.update(engine, config.clip)
        losses.append(loss.item())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    checkpoints.save(engine, out / f"run_{stage}", steps, {}, RANKS)
    files = [path.stat().st_size for path in out.glob(f"run_{stage}/checkpoints/step_{steps}/*.pt")]
    result = {"held": most, "grown": grown, "losses": losses, "checkpoint": sum(files), "largest": largest}
    write_json(out / f"{stage}.{rank()}.json", result)


def launch(stage: int, width: int, steps: int, out: Path) -> list[dict]:
    """Run a stage on two processes -> what each rank left."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command += [__file__, "--worker", str(out), "--stages", str(stage), "--width", str(width), "--steps", str(steps)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"stage {stage} failed: {' '.join(done.stderr.split()[-60:])}")
    return [read_json(out / f"{stage}.{rank}.json") for rank in range(RANKS)]


def estimates(stage: int, count: int, largest: int) -> str:
    """DeepSpeed's own estimate in MB; it knows stages 2 and 3, and takes weights and gradients to be 16 bits wide."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    if stage == 2:
        return mega(estimate_zero2_model_states_mem_needs(count, RANKS, 1, cpu_offload=False)[1])
    if stage == 3:
        needs = estimate_zero3_model_states_mem_needs(
            count, largest, RANKS, 1, cpu_offload=False, cpu_offload_params=False
        )
        return mega(needs[1])
    return "-"


def mega(size: float) -> str:
    return f"{size / 1e6:.1f}"


def compare(stages: list[int], width: int, steps: int, out: Path) -> bool:
    """Print a line a stage; whether totals and checkpoints are as planned within 2 % and all losses agree."""
    parts = parameters(configuration(width, 0))
    count = sum(parts.values())
    print(
        f"{count:,} parameters, {RANKS} processes, {steps} steps; MB of the rank that holds most, measured / planned\n"
    )
    row("ZeRO", *KINDS, "total", "DeepSpeed's estimate", "peak RSS grew by", "checkpoint", "loss differs by")
    row(*["---"] * (6 + len(KINDS)))
    first, passed = None, True
    for stage in stages:
        ranks = launch(stage, width, steps, out)
        held = max((rank["held"] for rank in ranks), key=lambda held: sum(held.values()))
        planned = model_states(count, stage, RANKS)
        planned["bucket"] = 4 * int(BUCKET * count) if stage else 0
        losses = [sum(values) / RANKS for values in zip(*(rank["losses"] for rank in ranks))]
        first = first or losses
        difference = max(abs(a - b) / abs(b) for a, b in zip(losses, first))
        pairs = [(held[kind], planned[kind]) for kind in KINDS]
        pairs += [tuple(map(sum, zip(*pairs))), (ranks[0]["checkpoint"], checkpoint_bytes(count, stage))]
        passed &= difference <= TOLERANCE and all(abs(ours / plan - 1) <= 0.02 for ours, plan in pairs[-2:])
        *kinds, checkpoint = [f"{mega(ours)} / {mega(plan)}" for ours, plan in pairs]
        grown = mega(max(rank["grown"] for rank in ranks))
        row(stage, *kinds, estimates(stage, count, ranks[0]["largest"]), grown, checkpoint, f"{difference:.1e}")
    verdict = "PASS" if passed else "FAIL"
    print(f"\ntotals and checkpoints within 2 % of the plan, losses within {TOLERANCE:g} of the first row's: {verdict}")
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stages", nargs="+", type=int, choices=range(4), default=list(range(4)), help="(default: all)"
    )
    parser.add_argument("--width", type=int, default=256, help="of both towers, a multiple of 4 (default 256)")
    parser.add_argument("--steps", type=int, default=5, help="(default 5)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.width < 4 or args.width % 4 or args.steps < 1:
        raise UserError(f"--width {args.width} --steps {args.steps}: give a multiple of 4, and 1 step or more")
    if args.worker:
        return work(args.stages[0], args.width, args.steps, args.worker)
    with tempfile.TemporaryDirectory() as folder:
        if not compare(args.stages, args.width, args.steps, Path(folder)):
            sys.exit(1)


if __name__ == "__main__":
    run_command(main)
