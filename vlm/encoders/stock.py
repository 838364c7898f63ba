"""Stock Hugging Face models made from given weights, with nothing initialised in between."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

# Without the flag LLaVA reads hidden states from before the final norm; transformers before 5.18 ignores it in silence.
AFTER_LAST_NORM: dict[str, Any] = {"tie_last_hidden_states": True}


def model_with(model_class: type, config: PretrainedConfig, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A model of `config` that holds copies of `weights`, which are all of its own: fp32, frozen, in eval mode.

    It is made on "meta": no time is lost, and the global random state stays as it was.
    """
    with torch.device("meta"):
        model = model_class(config)
    copies = {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in weights.items()}
    model.load_state_dict(copies, assign=True)
    parts: Any = model.modules()
    for part in parts:  # the numbers of positions are in no file
        if isinstance(ids := getattr(part, "position_ids", None), torch.Tensor):
            part.position_ids = torch.arange(ids.shape[-1]).expand(1, -1)
    return model.eval().requires_grad_(False)


def zero_pooler(config: Any) -> dict[str, torch.Tensor]:
    """LLaVA makes its ViT with a pooler, which it never reads: zero, so that saved files are reproducible."""
    pooler = config.pooler_output_size or config.hidden_size
    return {"pooler.dense.weight": torch.zeros(pooler, config.hidden_size), "pooler.dense.bias": torch.zeros(pooler)}
