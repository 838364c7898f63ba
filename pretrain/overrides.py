"""--deepspeed FILE: which of DeepSpeed's settings a user may add or change, and what decides the others."""

from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.files import read_json

# How gradients travel, and what DeepSpeed tells. None of it changes what is computed, but for rounding.
FREE = (
    "zero_optimization", "prescale_gradients", "gradient_predivide_factor", "disable_allgather", "comms_logger",
    "flops_profiler", "wall_clock_breakdown", "memory_breakdown", "steps_per_print", "dump_state", "timers",
    "log_level",
)  # fmt: skip
OURS = "this command alone"
DECIDED_BY = {
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size and the number of processes",
    "gradient_accumulation_steps": "--micro-batch-size, which gives the gradient of the whole batch",
    "gradient_clipping": "--clip",
    "communication_data_type": "--reduce-dtype",
    "optimizer": "--lr and --weight-decay; it is torch's fused AdamW",
    "scheduler": "--schedule",
    **dict.fromkeys(("fp16", "bf16", "bfloat16", "amp", "torch_autocast", "data_types"), "--dtype"),
    "compile": "--compile",
    "zero_optimization.stage": "--zero",
    **dict.fromkeys(("zero_optimization.offload_optimizer", "zero_optimization.offload_param"), OURS),
    **dict.fromkeys(("zero_optimization.cpu_offload", "zero_optimization.elastic_checkpoint"), OURS),
}


def with_overrides(own: dict[str, Any], file: Path) -> dict[str, Any]:
    """DeepSpeed's settings `own`, and over them those of a JSON file; zero_optimization is merged name by name.

    Raises: UserError if the file cannot be read, or sets what is not its to decide.
    """
    found = read_json(file)
    zero = found.get("zero_optimization", {}) if isinstance(found, dict) else None
    if not isinstance(zero, dict):
        raise UserError(f"--deepspeed {file}: give a JSON object of DeepSpeed's settings")
    for name in [*found, *(f"zero_optimization.{inner}" for inner in zero)]:
        if name in DECIDED_BY or name.split(".")[0] not in FREE:
            decided = DECIDED_BY.get(name, OURS)
            raise UserError(f"--deepspeed {file}: {name} is decided by {decided}: take it out of the file")
    return own | found | {"zero_optimization": own["zero_optimization"] | zero}
