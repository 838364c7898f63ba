"""Configuration -> DeepSpeed: process group, ZeRO settings, engine."""

import itertools
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch

if torch.backends.mps.is_available() and not torch.cuda.is_available():
    # DeepSpeed chooses when it is imported, and would take a Mac's GPU. There every ZeRO stage failed before its pull
    # request 8293, and torch's fused AdamW does not read `found_inf`, by which `update` skips a step.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed import utils as fragments
from deepspeed.accelerator import get_accelerator
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero import stage_1_and_2
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
from torch.distributed import distributed_c10d
from torch.nn import functional

from pretrain.config import REDUCE_BUCKET_SIZE, PretrainConfig
from pretrain.overrides import with_overrides
from vlm.distributed import rank, world_size
from vlm.errors import UserError
from vlm.run.shared_memory import remove_left_buffers

Engine = deepspeed.DeepSpeedEngine
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight, beside its count of steps


def start_processes(minutes: float = PretrainConfig.timeout) -> None:
    """Join the process group of `deepspeed`, `torchrun` or SLURM; a plain `python` becomes a group of one.

    minutes: after which a collective that some rank has not joined is given up.
    Raises: UserError if DS_ACCELERATOR names a Mac's GPU.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():  # no launcher's
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if get_accelerator().device_name() == "mps":
        raise UserError("DS_ACCELERATOR=mps: a step without a finite gradient would not be skipped: unset it")
    # DeepSpeed's CPU op sums tensors of inference, never gradients. It would compile for two minutes at a first start,
    # wait for ever for the lock of a build that was killed (torch < 2.14), and leave 69 MB a rank in /dev/shm.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    local_rank = int(os.environ.get("LOCAL_RANK", 0))  # as vlm.distributed.join_processes reads it
    if local_rank == 0:
        remove_left_buffers()
    on_gpu = get_accelerator().device_name() == "cuda"
    if on_gpu:
        get_accelerator().set_device(local_rank)
    backend = "nccl" if on_gpu else "gloo"
    timeout = timedelta(minutes=minutes)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    # DeepSpeed makes further groups, to which it gives no time: they get torch's default.
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout


def device() -> torch.device:
    """This rank's GPU, or the CPU."""
    return torch.device(get_accelerator().current_device_name())


def zero_config(config: PretrainConfig, world_size: int) -> dict:
    """The DeepSpeed configuration: fp32 master weights and reductions; bf16 is autocast's, inside the model.

    Raises: UserError if a batch cannot be split over the processes, or the file of --deepspeed cannot be used.
    """
    if config.batch_size % world_size:
        _refuse_processes(config.batch_size, world_size)
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
            # Buckets are reduced while the backward pass goes on: a GPU has streams for it, a CPU has none. In ZeRO 1
            # and 2 the host then waits for the device once, at the end of the backward pass. Which way is faster was
            # not measured.
            "overlap_comm": config.zero == 3 or (world_size > 1 and get_accelerator().device_name() == "cuda"),
        },
        # The optimizer is torch's fused AdamW, given by us.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # else the host waits for the device twice a step
    }
    if not config.deepspeed:
        return own
    merged = with_overrides(own, Path(config.deepspeed))
    throughput = merged["timers"].get("throughput", {})
    _check_values(config.deepspeed, "zero_optimization", DeepSpeedZeroConfig, merged["zero_optimization"])
    _check_values(config.deepspeed, "comms_logger", CommsLoggerConfig, merged.get("comms_logger", {}))
    _check_values(config.deepspeed, "timers.throughput", DeepSpeedThroughputTimerConfig, throughput)
    return merged


def _check_values(file: str, group: str, known: Callable[..., Any], values: dict[str, Any]) -> None:
    """Raise a `UserError` for a name or value that DeepSpeed's own class `known` of this group does not know."""
    try:
        known(**values)
    except ValueError as error:
        name, problem = str(error).splitlines()[1:3]
        raise UserError(f"--deepspeed {file}: {group}.{name}: {problem.strip()}") from None


def _refuse_processes(batch_size: int, processes: int) -> NoReturn:
    """Raise the `UserError` for processes that a batch cannot be split over evenly, with the nearest that it can."""
    fit = [count for count in range(1, batch_size + 1) if batch_size % count == 0]
    fewer = [count for count in fit if count < processes][-1:]
    more = [count for count in fit if count > processes][:1]
    lower = batch_size // processes * processes
    sizes = [size for size in (lower, lower + processes) if size]
    raise UserError(
        f"--batch-size {batch_size} is not a multiple of {processes} processes: launch "
        f"{' or '.join(map(str, fewer + more))}; a new run may also take --batch-size {' or '.join(map(str, sizes))}"
    )


def start_engine(model: torch.nn.Module, groups: list[dict], config: PretrainConfig, world_size: int) -> Engine:
    """Wrap `model` and a fused AdamW over its parameter `groups` in a ZeRO engine."""
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero_config(config, world_size))
    if config.zero in (1, 2):
        _skip_on_device(engine)
    if world_size == 1 and not config.zero:  # DeepSpeed would copy all gradients into a buffer and back
        engine.enable_backward_allreduce = False
    return engine


def _skip_on_device(engine: Engine) -> None:
    """Let ZeRO 1 and 2 leave out a step without a finite gradient as `update` does without ZeRO, by AdamW's flag.

    DeepSpeed asks the device whether the norm is finite, once to decide and once for each parameter group in clipping:
    each time the host waits for the whole backward pass, and then the device for the host. (With `overlap_comm`, on
    several GPUs, one wait is left: DeepSpeed's own before it puts the gradients together.)
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


def updates(engine: Engine) -> int:
    """How many steps have moved the weights: all but those that were skipped."""
    counts = [state["step"] for state in _adamw(engine).state.values() if state]
    return int(torch.stack(counts).max()) if counts else 0


def whole_states(engine: Engine) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Of each parameter its name, its fp32 "weight" and, once a step has moved it, AdamW's MOMENTS; collective.

    float32 of the parameter's whole shape, on the device, whatever the ZeRO stage: one parameter is gathered at a time.
    They may be the run's own memory.
    """
    kinds = MOMENTS if updates(engine) else ()
    if kinds:
        _link_moments(engine)
    model: Any = engine.module
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            with gathered([parameter]):
                yield name, {"weight": parameter.detach().clone()}
        elif not engine.zero_optimization():
            moments = _adamw(engine).state[parameter]
            yield name, {"weight": parameter.detach(), **{kind: moments[kind] for kind in kinds}}
        else:
            weight: Any = fragments.safe_get_full_fp32_param(parameter)
            moments: Any = {kind: fragments.safe_get_full_optimizer_state(parameter, kind) for kind in kinds}
            yield name, {"weight": weight, **moments}


@torch.no_grad()
def load_states(engine: Engine, count: int, read: Callable[[str], dict[str, torch.Tensor]]) -> None:
    """Set weights and moments of every parameter; collective.

    count: what `updates` gave. read: the name of a parameter -> what `whole_states` gave of it.
    """
    model: Any = engine.module
    optimizer: Any = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        optimizer.checkpoint_event_prologue()  # drops the copies of small parameters that every rank keeps
    if count:
        _begin_moments(engine, count)
    for name, parameter in model.named_parameters():
        for kind, value in read(name).items():
            _set_state(engine, parameter, kind, value)
    # The weights that the model computes with follow the master copies that were set.
    if stage in (1, 2):
        optimizer.update_lp_params()
    if stage == 3:
        for weights, master in zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat):
            weights.data.copy_(master.data)
        optimizer.checkpoint_event_epilogue()


def _adamw(engine: Engine) -> Any:
    """torch's AdamW, which the optimizer of ZeRO 1-3 holds."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _begin_moments(engine: Engine, count: int) -> None:
    """Make AdamW's state, which torch makes in its first step, as after `count` steps; the moments are still zero."""
    optimizer, adamw = engine.optimizer, _adamw(engine)
    # ZeRO-3 keeps its flat partitions by itself and lends AdamW one at a time.
    groups = [group["params"] for group in adamw.param_groups]
    for held in itertools.chain(*groups, getattr(optimizer, "fp32_partitioned_groups_flat", [])):
        if held.requires_grad:
            step = torch.tensor(float(count), device=held.device)
            adamw.state[held] = {"step": step, **{name: torch.zeros_like(held) for name in MOMENTS}}
    _link_moments(engine)


def _link_moments(engine: Engine) -> None:
    """Show DeepSpeed where a parameter's moments are in the flat ones of ZeRO 1-2.

    It looks by itself, but once: after the first step of the first parameter group, when the second has none yet.
    """
    if engine.zero_optimization_stage() in (1, 2):
        optimizer: Any = engine.optimizer
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _set_state(engine: Engine, parameter: Any, kind: str, value: torch.Tensor) -> None:
    """Set this rank's part of a parameter's weight or moment. value: float32, whole, on any device."""
    weight = kind == "weight"
    stage = engine.zero_optimization_stage() if parameter.requires_grad else 0
    if stage == 0:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            (parameter if weight else _adamw(engine).state[parameter][kind]).copy_(value)
    elif stage < 3:
        if weight:
            fragments.safe_set_full_fp32_param(parameter, value)
        else:
            fragments.safe_set_full_optimizer_state(parameter, value, kind)
    else:
        # The function for whole values fails if the ranks' equal parts are together longer than the parameter.
        part = parameter.ds_tensor.numel()
        padded = functional.pad(value.flatten(), (0, part * world_size() - value.numel()))
        own = padded[rank() * part :][:part]
        if weight:
            fragments.safe_set_local_fp32_param(parameter, own)
        else:
            fragments.safe_set_local_optimizer_state(parameter, own, kind)
