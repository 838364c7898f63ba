"""What a run is made of beside its settings, as short digests: a checkpoint is continued only on the same."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from bridge.data.example import Example
from vlm.llava.model import VLM

SAMPLE = 1024  # elements of each weight: enough to tell two models of the same sizes apart, in no time


def content(vlm: VLM, sets: Sequence[Sequence[Example]], votes: bool) -> dict[str, str]:
    """{"questions", "chat_template", "llm_weights", "connector", "dtype"} of an assembled VLM, before it is trained.

    votes: whether the annotators' answers are trained on, and not only the most common one.
    """
    embeddings = vlm.model.get_input_embeddings().weight  # a quantised model's other weights have another dtype
    return {
        "questions": _digest(_texts(sets, votes)),
        "chat_template": _digest([repr(vlm.conversation_ids("Is it?", "yes")), vlm.processor.chat_template]),
        "llm_weights": _digest(_weights(vlm.language_model)),
        "connector": _digest(_weights(vlm.connector)),  # of --init; else it follows from the seed
        "dtype": str(embeddings.dtype).removeprefix("torch."),
    }


def _texts(sets: Sequence[Sequence[Example]], votes: bool) -> Iterable[str]:
    for number, examples in enumerate(sets):
        yield f"set {number}"
        for example in examples:
            yield repr(
                (
                    example.question_id,
                    example.image.name,
                    example.question,
                    example.answer,
                    example.votes if votes else (),
                )
            )


def _weights(model: torch.nn.Module) -> Iterable[str]:
    for name, value in sorted(model.state_dict().items()):
        beginning = value.detach().flatten()[:SAMPLE].cpu().contiguous().view(torch.uint8)
        yield f"{name} {value.dtype} {tuple(value.shape)} {beginning.numpy().tobytes().hex()}"


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:12]
