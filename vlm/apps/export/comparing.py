"""Whether an export computes what it came from: the same questions about the same picture, by both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm.errors import UserError
from vlm.llava.model import VLM
from vlm.llms.prompt import briefly

QUESTIONS = ("What is in the picture?", briefly("Is it red?"))
LAST = 8  # positions whose logits are compared; each has read all before it
# The largest difference that is allowed, as a share of the largest logit.
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Expected:
    """A question's prompt ids, int64[1, T], pixels, float32[1, 3, H, W], and last logits, float32[LAST, vocabulary]."""

    ids: torch.Tensor
    pixels: torch.Tensor
    logits: torch.Tensor


def sample_picture() -> Image.Image:
    """A picture of 96 x 64 pixels with colours that change in each direction; no random numbers."""
    y, x = np.mgrid[0:64, 0:96]
    red, green, blue = 255 * x / 95, 255 * y / 63, 127.5 + 127.5 * np.sin(x / 5) * np.cos(y / 7)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


@torch.no_grad()
def expected(vlm: VLM) -> list[Expected]:
    """What the VLM itself makes of each question."""
    pixels = vlm.processor.image_processor(images=[sample_picture()], return_tensors="pt").pixel_values
    found = []
    for question in QUESTIONS:
        ids = torch.tensor([vlm.prompt_ids(question, 1)])
        found.append(Expected(ids, pixels, _logits(vlm.model, ids, pixels)))
    return found


@torch.no_grad()
def compare(folder: Path, wanted: list[Expected], dtype: torch.dtype, device: torch.device) -> str:
    """Load `folder` by stock transformers alone, ask the same, and return what was found, in words.

    Raises: UserError if prompt, pixels or logits are others.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    processor = AutoProcessor.from_pretrained(folder, **options)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
    model.to(device).eval()
    largest = 0.0
    for question, want in zip(QUESTIONS, wanted):
        content = [{"type": "image", "image": sample_picture()}, {"type": "text", "text": question}]
        given = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        if not torch.equal(given["input_ids"], want.ids) or not torch.equal(given["pixel_values"], want.pixels):
            raise UserError("the exported processor prepares another prompt or other pixels than the VLM: not exported")
        logits = _logits(model, given["input_ids"], given["pixel_values"])
        difference, scale = (logits - want.logits).abs().max().item(), want.logits.abs().max().item()
        if not difference <= ALLOWED[dtype] * scale:  # also if it is NaN
            raise UserError(
                f"the exported model computes other logits than the VLM (up to {difference:.3g} apart, of at most "
                f"{scale:.3g}): not exported"
            )
        largest = max(largest, difference)
    return f"loaded again by transformers alone, its logits are at most {largest:.2g} from the VLM's"


def _logits(model: Any, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    inputs = {"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}
    pixels = pixels.to(model.device, model.dtype)
    return model(**inputs, pixel_values=pixels, logits_to_keep=LAST).logits[0].float().cpu()
