"""Whether llama.cpp itself, in the package xllamacpp, reads, renders and answers as the VLM does."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlm.apps.ask_llama_cpp import PACKAGE
from vlm.apps.export.comparing import QUESTIONS
from vlm.apps.export.llama_cpp.wrapping import neighbours
from vlm.errors import UserError
from vlm.llava.model import VLM
from vlm.llms.prompt import Prompts

# The largest |difference| of a log-probability. llama.cpp's GELU is the tanh form, and its products round otherwise.
ALLOWED = {"F32": 0.1, "F16": 0.1, "Q8_0": 1.0}
TEXTS = (
    "Hello  world", "  two\n\n\nlines \n ", "I'll say it's HE'S", "12345 1,234.56 v2", "naïve café 北京 😀👍🏽",
    "\t\ttabs\r\n",     "x=y*(z+1)//2;", "a_b-c...!?", "العربية हिन्दी ไทย", " ", "\u00a0\u3000wide", "URL: https://a.b/c?d=e&f#g",
)  # fmt: skip
MARKER = re.compile(r"<__media\w*__>")  # what llama.cpp writes for a picture; its name changes with each start


def installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def compare_runtime(text: Path, mmproj: Path, vlm: VLM, picture: Image.Image, quantise: str) -> str:
    """Load both files by llama.cpp, ask it, and return what was found, in words.

    picture: of the size that the tower takes.
    Raises: UserError if it cannot load them, or reads, renders or answers otherwise than the VLM.
    """
    asked = [*QUESTIONS, None]  # None: without a picture
    wanted = [vlm.prompt_ids(question or QUESTIONS[0], 1 if question else 0) for question in asked]
    request = {
        "text": str(text), "mmproj": str(mmproj), "threads": torch.get_num_threads(),
        "context": max(map(len, wanted)) + 256,
        "texts": TEXTS, "talks": [_for_llama_cpp(talk, picture) for talk in _talks()],
        "chats": [_for_llama_cpp(_chat(question), picture) for question in asked],
    }  # fmt: skip
    answer = _ask(request, text.parent)
    _check_tokens(vlm.prompts, answer["tokens"])
    _check_prompts(vlm, answer["prompts"])
    differences, same = [], 0
    for question, ids, chat in zip(asked, wanted, answer["chats"]):
        if (found := chat["usage"]["prompt_tokens"]) != len(ids):
            raise UserError(f"llama.cpp makes {found} tokens of a prompt of {len(ids)}: not exported")
        steps = chat["choices"][0]["logprobs"]["content"]
        if steps and len(steps) == chat["usage"]["completion_tokens"]:
            difference, chosen = _difference(vlm, ids, picture if question else None, steps)
            differences.append(difference)
            same += chosen
    if not differences:
        raise UserError("llama.cpp tells no token of its answers, which begin within a character: give --format hf")
    largest = max(differences)
    if not largest <= ALLOWED[quantise]:
        raise UserError(
            f"llama.cpp answers with other probabilities than the VLM (log up to {largest:.3g} apart, allowed "
            f"{ALLOWED[quantise]}): not exported" + ("; try --quantise F16" if quantise == "Q8_0" else "")
        )
    return (
        f"asked by llama.cpp itself, {same} of {len(differences)} greedy answers are the VLM's, and log-probabilities "
        f"at most {largest:.2g} from its own"
    )


def _ask(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run `vlm.apps.ask_llama_cpp` in a process of its own."""
    given, made = folder / "request.json", folder / "answer.json"
    given.write_text(json.dumps(request), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "vlm.apps.ask_llama_cpp", str(given), str(made)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if run.returncode != 0:
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            wrong = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
            reason = " ".join((wrong or lines[-1:] or ["it ended"])[0].split())[:300]
            raise UserError(f"llama.cpp cannot use what was written ({reason}): not exported")
        return json.loads(made.read_text(encoding="utf-8"))
    finally:
        given.unlink(missing_ok=True)
        made.unlink(missing_ok=True)


def _check_tokens(prompts: Prompts, found: Sequence[list[int]]) -> None:
    for text, ids in zip(TEXTS, found):
        if ids != (wanted := prompts.tokenizer(text, add_special_tokens=False).input_ids):
            raise UserError(f"llama.cpp cuts {text!r} into the tokens {ids}, not {wanted}: not exported")


def _check_prompts(vlm: VLM, found: Sequence[str]) -> None:
    for talk, prompt in zip(_talks(), found):
        wanted = vlm.processor.apply_chat_template(talk, add_generation_prompt=True)
        wanted = neighbours(vlm).left_out(wanted, vlm.processor.image_token)
        prompt = MARKER.sub(lambda _: vlm.processor.image_token, prompt)
        if prompt != wanted:
            raise UserError(f"llama.cpp renders a prompt as {prompt[-200:]!r}, not {wanted[-200:]!r}: not exported")


@torch.no_grad()
def _difference(vlm: VLM, ids: list[int], picture: Image.Image | None, steps: Sequence[dict]) -> tuple[float, bool]:
    """The largest difference of llama.cpp's log-probabilities from the VLM's own, and whether it chose the same tokens.

    A token that the VLM would not choose counts by half of what it is less likely than the VLM's choice.
    """
    config: Any = vlm.model.config.text_config
    rows, slot = config.vocab_size, vlm.processor.image_token_id

    def known(token: int) -> int:
        """llama.cpp's two more tokens, which have the image token's row of the head, as that one."""
        return token if token < rows else slot

    answered = [known(step["id"]) for step in steps]
    inputs = torch.tensor([ids + answered[:-1]], device=vlm.model.device)
    pixels: dict[str, Any] = {}
    if picture is not None:
        as_it_is: Any = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
        prepared = vlm.processor.image_processor(images=[picture], **as_it_is).pixel_values
        pixels["pixel_values"] = prepared.to(vlm.model.device, vlm.model.dtype)
    mask = torch.ones_like(inputs)
    logits = vlm.model(input_ids=inputs, attention_mask=mask, logits_to_keep=len(steps), **pixels).logits[0]
    expected = logits.float().log_softmax(-1).cpu()  # [steps, vocabulary]
    largest = 0.0
    for step, row in zip(steps, expected):
        for token in step["top_logprobs"]:
            largest = max(largest, abs(row[known(token["id"])].item() - token["logprob"]))
        largest = max(largest, (row.max() - row[known(step["id"])]).item() / 2)
    return largest, expected.argmax(-1).tolist() == answered


def _talks() -> list[list[dict[str, Any]]]:
    """Conversations that are rendered by both: a picture in front and behind, several turns, a system's turn."""
    image, first = {"type": "image"}, {"type": "text", "text": "What is it?"}
    later = [{"role": "assistant", "content": "a bus"}, {"role": "user", "content": "What color is it?"}]
    return [
        [{"role": "user", "content": [image, first]}],
        [{"role": "user", "content": [first, image]}],
        [{"role": "user", "content": [image, image, first]}],
        [{"role": "user", "content": "Are <b> and a < b tags?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [image, first]}, *later],
    ]


def _chat(question: str | None) -> list[dict[str, Any]]:
    if question is None:
        return [{"role": "user", "content": QUESTIONS[0]}]
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _for_llama_cpp(talk: list[dict[str, Any]], picture: Image.Image) -> list[dict[str, Any]]:
    """The same conversation with each picture as a data URI."""
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()
    shown = {"type": "image_url", "image_url": {"url": uri}}

    def content(given: Any) -> Any:
        return given if isinstance(given, str) else [shown if item["type"] == "image" else item for item in given]

    return [{**message, "content": content(message["content"])} for message in talk]
