"""Where a stock LLaVA keeps its three parts: the only place that knows transformers' attribute paths."""

from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel


def vision_tower(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The frozen ViT: pixels -> patch tokens."""
    return model.model.vision_tower


def connector(model: LlavaForConditionalGeneration) -> nn.Module:
    """LLaVA's Linear-GELU-Linear: patch tokens -> what the language model reads in the image's slots."""
    return model.model.multi_modal_projector


def language_model(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The language model without its head: embeddings -> hidden states."""
    return model.model.language_model
