"""A run's content: short digests of what its settings name. A checkpoint goes on with the same content only.

Paths are not compared. A data folder may be moved or spelled otherwise; a question that changed in it is noticed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from bridge.data.mixture import Mixture
from vlm.files import file_sha256
from vlm.llava.model import VLM

WEIGHT_ELEMENTS = 1024  # of each tensor: enough to tell two models of the same sizes apart, in no time
SET_IMAGES = 16  # files of each data set that are read: all of them would take hours


def run_content(vlm: VLM, mixture: Mixture, votes: bool) -> dict[str, str]:
    """Digests of an assembled VLM, before it is trained, and of its questions, by name.

    votes: whether the annotators' answers are trained on, and not only the most common one.
    """
    embeddings = vlm.model.get_input_embeddings().weight  # a quantised model's other weights have another dtype
    example_ids = vlm.conversation_ids("Is it?", "yes")  # by which a changed tokenizer shows
    return {
        "questions": _digest(_texts(mixture, votes)),
        "chat_template": _digest([repr(example_ids), str(vlm.processor.chat_template)]),
        "llm_weights": _digest(_weights(vlm.language_model)),
        "connector": _digest(_weights(vlm.connector)),  # of --init; else it follows from the seed
        "dtype": str(embeddings.dtype).removeprefix("torch."),
    }


def images_content(mixture: Mixture) -> str:
    """A digest of a few images of each data set, evenly spread over its questions."""
    chosen: list[Path] = []
    for questions in mixture.sets():
        spread = questions[:: max(1, len(questions) // SET_IMAGES)]
        chosen += [mixture.examples[index].image for index in spread[:SET_IMAGES]]
    return _digest(file_sha256(image) for image in chosen)


def _texts(mixture: Mixture, votes: bool) -> Iterator[str]:
    for number, questions in enumerate(mixture.sets()):
        yield f"set {number}"
        for example in mixture.examples[questions.start : questions.stop]:
            answers = example.votes if votes else ()
            yield repr((example.question_id, example.image.name, example.question, example.answer, answers))


def _weights(model: torch.nn.Module) -> Iterator[str]:
    for name, value in sorted(model.state_dict().items()):
        beginning = value.detach().flatten()[:WEIGHT_ELEMENTS].cpu().contiguous().view(torch.uint8)
        yield f"{name} {value.dtype} {tuple(value.shape)} {beginning.numpy().tobytes().hex()}"


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:12]
