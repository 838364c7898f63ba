"""What a model's config says of what it computes, by which models of the same weights are told apart."""

import json
from typing import Any

from transformers import PretrainedConfig

# How a config was made and stored. All else counts, so that no setting that changes numbers can be forgotten here.
BOOKKEEPING = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "quantization_config")


def settings_of(config: PretrainedConfig) -> str:
    """Every setting of a config and of those inside it, as one line, the same after the model was saved and loaded."""
    return json.dumps(_without_bookkeeping(config.to_diff_dict()), sort_keys=True, default=str)


def _without_bookkeeping(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(name): _without_bookkeeping(each) for name, each in value.items() if name not in BOOKKEEPING}
