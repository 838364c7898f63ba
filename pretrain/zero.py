"""Configuration -> DeepSpeed: process group, ZeRO settings, engine."""

import math
import os
import socket
import sys
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch.distributed import distributed_c10d

from pretrain.config import REDUCE_BUCKET_SIZE, PretrainConfig
from vlm.errors import UserError

Engine = deepspeed.DeepSpeedEngine


def start_processes(minutes: float = PretrainConfig.timeout) -> None:
    """Join the process group of `deepspeed`, `torchrun` or SLURM; a plain `python` becomes a group of one.

    minutes: after which a collective that some rank has not joined is given up.
    """
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # DeepSpeed builds its shared-memory op with the `ninja` beside this interpreter, whether the venv is active or not.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    on_gpu = get_accelerator().device_name() == "cuda"
    if on_gpu:
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    timeout = timedelta(minutes=minutes)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    # DeepSpeed makes further groups, to which it gives no time: they get torch's default.
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout


def device() -> torch.device:
    """This rank's GPU, or the CPU."""
    return torch.device(get_accelerator().current_device_name())


def zero_config(config: PretrainConfig, world_size: int) -> dict:
    """The DeepSpeed configuration: fp32 master weights and reductions; bf16 is autocast's, inside the model."""
    if config.batch_size % world_size:
        lower = config.batch_size // world_size * world_size
        remedy = f"take {lower} or {lower + world_size}"
        raise UserError(f"--batch-size {config.batch_size} is not a multiple of {world_size} processes: {remedy}")
    if 0 < (micro := config.micro_batch_size) < world_size:
        raise UserError(f"--micro-batch-size {micro} leaves nothing to some of {world_size} processes")
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip if config.zero else 0.0,  # else by `update`
        "zero_optimization": {"stage": config.zero, "reduce_bucket_size": REDUCE_BUCKET_SIZE},
        # The optimizer is torch's fused AdamW, given by us.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def start_engine(model: torch.nn.Module, groups: list[dict], config: PretrainConfig, world_size: int) -> Engine:
    """Wrap `model` and a fused AdamW over its parameter `groups` in a ZeRO engine."""
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero_config(config, world_size))
    return engine


def set_learning_rate(engine: Engine, lr: float) -> None:
    """For all parameter groups of the engine's optimizer."""
    optimizer: Any = engine.optimizer  # of a class that depends on the ZeRO stage; every one has the groups
    for group in optimizer.param_groups:
        group["lr"] = lr


def update(engine: Engine, clip: float) -> torch.Tensor:
    """One optimizer step -> float32[], the global norm of the gradients; if it is not finite nothing has moved.

    ZeRO reads the norm on the host and skips such a step itself. Without ZeRO nothing would: the fused AdamW is told on
    the device, by the flag that loss scaling uses, to leave weights, moments and its own count of steps as they are.
    clip: the largest norm, 0 for no clipping; with ZeRO the engine's configuration has it.
    """
    if engine.zero_optimization():
        engine.step()
        norm = engine.get_global_grad_norm() if engine.was_step_applied() else math.inf
        return torch.as_tensor(norm, dtype=torch.float32, device=device())
    norm = torch.nn.utils.clip_grad_norm_(engine.parameters(), clip or math.inf)
    fused_adamw: Any = engine.optimizer  # torch's own, which reads `found_inf` as torch.amp.GradScaler sets it
    fused_adamw.found_inf = (~norm.isfinite()).float()
    engine.step()
    return norm


def gathered(parameters: list[torch.nn.Parameter]) -> AbstractContextManager:
    """A context in which parameters that ZeRO-3 spread over ranks are whole; free in the other stages."""
    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=None)


def checkpoint_weights(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    """The module's state, fp32, from a verified checkpoint folder that a run of ZeRO `stage` wrote.

    Only tensors are unpickled, but for ZeRO-3, whose parts DeepSpeed itself puts together.
    """
    if stage == 3:
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name) or {})
    return torch.load(folder / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)["module"]
