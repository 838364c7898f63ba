"""The three parts of a stock LLaVA. Only assembly.py also knows at which attributes transformers keeps them."""

from transformers import LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector


def vision_tower(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The frozen ViT: pixels -> patch tokens."""
    return model.model.vision_tower


def connector(model: LlavaForConditionalGeneration) -> LlavaMultiModalProjector:
    """LLaVA's Linear-GELU-Linear: patch tokens -> what the language model reads in the image's slots."""
    return model.model.multi_modal_projector


def language_model(model: LlavaForConditionalGeneration) -> PreTrainedModel:
    """The language model without its head: embeddings -> hidden states."""
    return model.model.language_model
