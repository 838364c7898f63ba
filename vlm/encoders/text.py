"""The text towers of CLIP and SigLIP, with their own tokenizers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from vlm.encoders.base import checked_texts
from vlm.errors import UserError, one_line


class StockTextTower(nn.Module):
    """Captions -> embeddings in the space of the images', and the projection of the images into it."""

    def __init__(self, model: Any, folder: Path):
        super().__init__()
        self.text_model, self._folder = model.text_model, folder
        # CLIP projects both modalities; SigLIP's text tower has a head of its own, and images need none.
        self.text_projection = getattr(model, "text_projection", nn.Identity())
        self.project_image = getattr(model, "visual_projection", nn.Identity())
        self._is_clip = hasattr(model, "visual_projection")
        self._context: int = model.config.text_config.max_position_embeddings
        self.embed_dim: int = model.config.projection_dim if self._is_clip else model.config.vision_config.hidden_size
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Read when it is first needed: the bridge never does."""
        if self._tokenizer is None:
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            except (OSError, ValueError, ImportError, TypeError, AttributeError, KeyError) as error:
                raise UserError(f"the tokenizer in {self._folder} cannot be opened: {one_line(error)}") from None
        return self._tokenizer

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Captions -> z_t [B, embed_dim], read as the model was trained: SigLIP pads each to its whole context."""
        padding = True if self._is_clip else "max_length"
        inputs = self.tokenizer(
            checked_texts(texts), padding=padding, truncation=True, max_length=self._context, return_tensors="pt"
        )
        device = next(self.text_model.parameters()).device
        masks = {"attention_mask": inputs["attention_mask"].to(device)} if self._is_clip else {}
        return self.text_projection(self.text_model(inputs["input_ids"].to(device), **masks).pooler_output)
