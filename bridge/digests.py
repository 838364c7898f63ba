"""What a run is known again by: short digests of the content that its settings name.

Paths are not compared: a data folder may be moved or spelled otherwise; a question that changed in it is noticed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bridge.data.example import Dialogue, Example
from bridge.data.mixture import Mixture
from bridge.data.patches import PatchEncoder
from bridge.data.pictures import Picture, picture_bytes
from bridge.data.stored import Stored
from vlm.errors import UserError
from vlm.llava.digest import config_text
from vlm.llava.model import VLM
from vlm.llms.prompt import briefly

WEIGHT_ELEMENTS = 1024  # of each tensor: enough to tell two models of the same sizes apart, in no time
SET_IMAGES = 16  # files of each data set that are read: all of them would take hours


def model_digests(vlm: VLM, encoder: PatchEncoder) -> dict[str, str]:
    """Digests of an assembled VLM, before it is trained, by name."""
    embeddings = vlm.model.get_input_embeddings().weight  # a quantised model's other weights have another dtype
    example_ids = vlm.conversation_ids(briefly("Is it?"), "yes")  # by which a changed tokenizer shows
    return {
        "chat_template": _digest([repr(example_ids), str(vlm.processor.chat_template)]),
        "llm_weights": _digest(_weight_beginnings(vlm.language_model)),
        "connector": _digest(_weight_beginnings(vlm.connector)),  # of --init; else it follows from the seed
        "dtype": str(embeddings.dtype).removeprefix("torch."),
        "encoder": encoder.weights_key[:12],
        # What weights do not show, as the norms' epsilons and RoPE's base.
        "model_config": _digest(config_text(part.config) for part in (vlm.model, vlm.vision_tower, vlm.language_model)),
        "tokenizer": _digest([_tokenizer_content(vlm.processor.tokenizer)]),
    }


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    """What its tokenizer.json holds, without how its last call padded and cut, which it remembers there."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({name: value for name, value in content.items() if name not in ("padding", "truncation")})


def questions_digest(mixture: Mixture, votes: bool) -> str:
    """A digest of the questions. votes: whether the annotators' answers are trained on, not the most common one."""
    return _digest(_question_texts(mixture, votes))


def images_digest(mixture: Mixture) -> str:
    """A digest of a few images of each data set, evenly spread over its questions."""
    chosen: list[Picture] = []
    for questions in mixture.sets():
        spread = questions[:: max(1, len(questions) // SET_IMAGES)]
        chosen += [image for index in spread[:SET_IMAGES] for image in mixture.examples[index].images]
    return _digest(map(_sha256, chosen))


def _sha256(picture: Picture) -> str:
    try:
        return hashlib.sha256(picture_bytes(picture)).hexdigest()
    except UserError:
        return "unreadable"  # its questions are left out when features are computed


def _question_texts(mixture: Mixture, votes: bool) -> Iterator[str]:
    for part in mixture.examples.parts:
        yield f"{len(part)} questions"
        if isinstance(part, Stored):
            yield part.digest(votes)
            continue
        name_of = _image_names(part)
        for example in part:
            if isinstance(example, Dialogue):
                names = [name_of(image) for image in example.images]
                yield repr((example.question_id, names, example.turns, example.system))
                continue
            answers = example.votes if votes else ()
            yield repr((example.question_id, name_of(example.image), example.question, example.answer, answers))


def _image_names(part: Iterable[Example | Dialogue]) -> Callable[[Picture], str]:
    """How an image of a data set is called wherever the set lies: by its path below the folder that holds them all.

    Without the folders between, a/1.jpg and b/1.jpg would be one image.
    """
    folders = {image.absolute().parent for example in part for image in example.images if isinstance(image, Path)}
    root = Path(os.path.commonpath(folders)) if folders else Path()

    def name_of(image: Picture) -> str:
        return image.absolute().relative_to(root).as_posix() if isinstance(image, Path) else image.name

    return name_of


def _weight_beginnings(model: torch.nn.Module) -> Iterator[str]:
    for name, value in sorted(model.state_dict().items()):
        beginning = value.detach().flatten()[:WEIGHT_ELEMENTS].cpu().contiguous().view(torch.uint8)
        yield f"{name} {value.dtype} {tuple(value.shape)} {beginning.numpy().tobytes().hex()}"


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:12]
