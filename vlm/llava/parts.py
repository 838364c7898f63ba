"""The three parts of a stock LLaVA, and at which attributes transformers keeps them."""

import inspect
from typing import Any

import torch
from transformers import LlamaModel, LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

# What language models call their cache of keys and values. The name changed, and a model takes any that it does not
# know in silence: it would see no cache at all.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def vision_tower(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The frozen ViT: pixels -> patch tokens."""
    return model.model.vision_tower


def tower_tokens(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """pixels: float[B, 3, H, W] -> what LLaVA hands to its connector, [B, N, width], by its own rule, alone.

    The hidden state `vision_feature_layer` of the tower, without its first token if the strategy is "default".
    """
    config: Any = model.config
    tower: Any = vision_tower(model)
    tokens = tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
    return tokens[:, 1:] if config.vision_feature_select_strategy == "default" else tokens


def connector(model: LlavaForConditionalGeneration) -> LlavaMultiModalProjector:
    """LLaVA's Linear-GELU-Linear: patch tokens -> what the language model reads in the image's slots."""
    return model.model.multi_modal_projector


def language_model(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The language model without its head: embeddings -> hidden states."""
    return model.model.language_model
