"""The words that llama.cpp writes around a picture, made to be those that stand there anyway.

For this projector llama.cpp puts `<img>` and `</img>` around each picture, which the VLM was never trained on: answers
would change. So both become tokens of the GGUF, behind the others, with the embeddings of the two tokens that the VLM's
prompt has just before and just behind its picture. The chat template in the GGUF leaves these two out:

    VLM          ... Picture  :      [picture]  \\n      Question ...
    llama.cpp    ... Picture  <img>  [picture]  </img>  Question ...     the same embeddings
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, NamedTuple

from vlm.errors import UserError
from vlm.llava.model import VLM

BEFORE, AFTER = "<img>", "</img>"


class Neighbours(NamedTuple):
    """The tokens before and behind a picture, and how they read."""

    before: int
    after: int
    text_before: str
    text_after: str

    def left_out(self, prompt: str, picture: str) -> str:
        """A prompt as the GGUF's template renders it. picture: what stands in the picture's place."""
        return prompt.replace(self.text_before + picture, picture).replace(picture + self.text_after, picture)


def neighbours(vlm: VLM) -> Neighbours:
    """What the VLM's prompts have around a picture; `UserError` if these are no tokens of their own."""
    tokenizer, slot = vlm.prompts.tokenizer, vlm.processor.image_token_id
    ids = vlm.prompt_ids("x", 1)
    start, end = ids.index(slot), len(ids) - ids[::-1].index(slot)
    message: Any = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}
    prompt = vlm.processor.apply_chat_template([message], add_generation_prompt=True)
    head, tail = prompt.split(vlm.processor.image_token)
    if start > 0 and end < len(ids):
        found = Neighbours(ids[start - 1], ids[end], tokenizer.decode(ids[start - 1]), tokenizer.decode(ids[end]))
        shorter = head.removesuffix(found.text_before), tail.removeprefix(found.text_after)
        begin, rest = (tokenizer(text, add_special_tokens=False).input_ids if text else [] for text in shorter)
        whole = head.endswith(found.text_before) and tail.startswith(found.text_after)
        taken = any(text in tokenizer.get_vocab() for text in (BEFORE, AFTER))
        same = ids[start - 1 - len(begin) : start - 1] == begin and ids[end + 1 :] == rest
        if whole and same and not taken:
            return found
    raise UserError(
        f"what stands around the picture in this VLM's prompts ({head[-12:]!r}, {tail[:12]!r}) cannot become "
        f"llama.cpp's {BEFORE} and {AFTER}: give --format hf"
    )


def template(chat_template: str, around: Neighbours) -> str:
    """The VLM's chat template between what sorts llama.cpp's markers, and what leaves their neighbours out."""
    first, rest = chat_template.split("\n", 1)
    if not first.startswith("{%- set image_token = "):
        raise UserError("the chat template is not of this project's: train the VLM again, or give --format hf")
    media = (files("vlm.apps.export.llama_cpp") / "media.jinja").read_text(encoding="utf-8")
    before, after = json.dumps(around.text_before), json.dumps(around.text_after)
    shown = f"prompt | replace({before} ~ media.marker, media.marker) | replace(media.marker ~ {after}, media.marker)"
    return media + "{%- set prompt -%}\n" + rest.removesuffix("\n") + "{% endset %}{{- " + shown + " -}}"
