"""What the tokens of an answer attend to in the image."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vlm.llava.model import VLM
from vlm.llava.parts import CACHE


@dataclass(frozen=True)
class Attended:
    """An answer and its attention to the image.

    weights: float32[side, side], the share of the attention that each patch gets; `on_image`, the share of all of the
    image's tokens, is their sum but for registers. The rest goes to the text.
    """

    text: str
    weights: torch.Tensor
    on_image: float


@torch.no_grad()
def attended(vlm: VLM, image: Image.Image, question: str, max_new_tokens: int = 64) -> Attended:
    """Answer a question, and average the attention over the answer's tokens, all layers and all heads.

    A token is chosen by what the position before it attends to. So the positions that count are the prompt's last one,
    which gives the answer's first token, and the answer's own but the last.
    """
    inputs = vlm.inputs(image, question, max_new_tokens=max_new_tokens)
    prompt = inputs["input_ids"]  # int64[1, P]
    ids = vlm.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)  # int64[1, P + A]
    length = prompt.shape[1]
    # The prompt but for its last token goes into the cache, so that only the rows that count are kept: [A, P + A - 1]
    # for each layer and head, in place of a square of everything.
    before = {**inputs, "input_ids": prompt[:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
    cache = vlm.model(**before, use_cache=True, logits_to_keep=1).past_key_values
    rows = _rows(vlm, ids[:, length - 1 : -1], cache)
    slots = prompt[0] == vlm.model.config.image_token_id  # bool[P]
    on_slots = rows[:length][slots]  # float32[image tokens]
    vision: Any = vlm.vision_tower.config
    side = vision.image_size // vision.patch_size
    text = vlm.processor.tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
    return Attended(text, on_slots[-side * side :].view(side, side), on_slots.sum().item())


def _rows(vlm: VLM, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    """Attention from the positions `ids` int64[1, A] to all before them, averaged: float32[P + A - 1], its sum is 1."""
    language: Any = vlm.language_model
    kind = language.config._attn_implementation
    language.set_attn_implementation("eager")  # the others never hold the weights
    try:
        layers = language(input_ids=ids, output_attentions=True, **{CACHE: cache}).attentions
    finally:
        language.set_attn_implementation(kind)
    # [1, heads, A, P + A - 1] each
    return torch.stack([layer[0].float().mean((0, 1)) for layer in layers]).mean(0).cpu()
