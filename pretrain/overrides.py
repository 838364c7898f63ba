"""--deepspeed FILE: which of DeepSpeed's settings a user may add or change, and what decides the others."""

import json
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.files import read_json

# How gradients travel, and what DeepSpeed prints. None of it changes what is computed, but for rounding.
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
# DeepSpeed takes these to be of a kind without a look, and would end in a traceback.
OBJECT, SWITCH, WORD = (dict, "a JSON object"), (int, "true or false"), (str, 'a string, such as "info"')
KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("zero_optimization", "comms_logger", "flops_profiler", "timers", "timers.throughput"), OBJECT),
    "wall_clock_breakdown": SWITCH,
    "log_level": WORD,
}


def with_overrides(own: dict[str, Any], file: Path) -> dict[str, Any]:
    """DeepSpeed's settings `own`, and over them those of a JSON file; zero_optimization is merged name by name.

    Raises: UserError if the file cannot be read, sets what is not its to decide, or has another value where DeepSpeed
    needs an object.
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise UserError(f"--deepspeed {file}: give a JSON object of DeepSpeed's settings")
    for name, value in found.items():
        _check(file, name, value)
        for inner, inner_value in value.items() if isinstance(value, dict) else ():
            _check(file, f"{name}.{inner}", inner_value)
    return own | found | {"zero_optimization": own["zero_optimization"] | found.get("zero_optimization", {})}


def _check(file: Path, name: str, value: Any) -> None:
    """Raise a `UserError` if the setting `name`, or `outer.inner`, is not the file's, or of another kind."""
    if name in DECIDED_BY or name.split(".")[0] not in FREE:
        decided = DECIDED_BY.get(name, OURS)
        raise UserError(f"--deepspeed {file}: {name} is decided by {decided}: take it out of the file")
    if name in KINDS and not isinstance(value, KINDS[name][0]):
        raise UserError(f"--deepspeed {file}: {name} is {json.dumps(value)}: give {KINDS[name][1]}")
