"""Configuration -> DeepSpeed: process group, ZeRO settings, engine."""

import math
import os
import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero import stage_1_and_2
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from pretrain.config import REDUCE_BUCKET_SIZE, PretrainConfig
from pretrain.overrides import with_overrides
from vlm.errors import UserError

Engine = deepspeed.DeepSpeedEngine


def start_processes() -> None:
    """Join the process group of `deepspeed`, `torchrun` or SLURM; a plain `python` becomes a group of one."""
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
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


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
    own = {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip if config.zero else 0.0,  # else by `update`
        "communication_data_type": config.reduce_dtype,
        "zero_optimization": {
            "stage": config.zero,
            "reduce_bucket_size": REDUCE_BUCKET_SIZE,
            # Buckets are reduced while the backward pass goes on: a GPU has streams for it, a CPU has none.
            "overlap_comm": config.zero == 3 or (world_size > 1 and get_accelerator().device_name() == "cuda"),
        },
        # The optimizer is torch's fused AdamW, given by us.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if not config.deepspeed:
        return own
    merged = with_overrides(own, Path(config.deepspeed))
    try:
        DeepSpeedZeroConfig(**merged["zero_optimization"])
    except ValueError as error:  # a name or value that DeepSpeed does not know
        name, problem = str(error).splitlines()[1:3]
        raise UserError(f"--deepspeed {config.deepspeed}: zero_optimization.{name}: {problem.strip()}") from None
    return merged


def start_engine(model: torch.nn.Module, groups: list[dict], config: PretrainConfig, world_size: int) -> Engine:
    """Wrap `model` and a fused AdamW over its parameter `groups` in a ZeRO engine."""
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero_config(config, world_size))
    if config.zero in (1, 2):
        _skip_on_device(engine)
    return engine


def _skip_on_device(engine: Engine) -> None:
    """Let ZeRO 1 and 2 leave out a step without a finite gradient as `update` does without ZeRO, by AdamW's flag.

    DeepSpeed asks the device whether the norm is finite, once to decide and once for each parameter group in clipping:
    each time the host waits for the whole backward pass, and then the device for the host.
    """
    zero_optimizer: Any = engine.optimizer
    norm_of_all = zero_optimizer.scaled_global_norm

    def scaled_global_norm(*arguments: Any, **named: Any) -> torch.Tensor:
        norm = norm_of_all(*arguments, **named)
        zero_optimizer.optimizer.found_inf = (~norm.isfinite()).float()
        return norm

    zero_optimizer.scaled_global_norm = scaled_global_norm
    stage_1_and_2.is_invalid_grad_norm = lambda norm: False


def set_learning_rate(engine: Engine, lr: float) -> None:
    """For all parameter groups of the engine's optimizer."""
    optimizer: Any = engine.optimizer  # of a class that depends on the ZeRO stage; every one has the groups
    for group in optimizer.param_groups:
        group["lr"] = lr


def update(engine: Engine, clip: float) -> torch.Tensor:
    """One optimizer step -> float32[], the global norm of the gradients; if it is not finite nothing has moved.

    The fused AdamW is told on the device, by the flag that loss scaling uses, to leave weights, moments and its own
    count of steps as they are. ZeRO 3 reads the norm on the host instead, once a step, and skips the step itself.
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
