"""lmms-eval's plug-in: `python -m lmms_eval --model levlm --model_args pretrained=RUN/vlm --tasks gqa,pope`.

lmms-eval finds `manifest` by the entry-point group `lmms_eval.models`, and is imported nowhere else in this project.
"""

import os
from typing import Any

import torch
from lmms_eval.api.model import lmms  # pyrefly: ignore[missing-import] nothing else here needs it
from lmms_eval.models.registry_v2 import ModelManifest  # pyrefly: ignore[missing-import]
from PIL import Image
from tqdm import tqdm

from vlm.apps.asking import StringPrompts
from vlm.errors import UserError


def manifest() -> ModelManifest:
    """Tell lmms-eval the name of this model and its class."""
    return ModelManifest(model_id="levlm", simple_class_path="vlm.apps.lmms.LeVLM")


class LeVLM(lmms):
    """A folder RUN/vlm under lmms-eval, in batches, with its own generation config."""

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        precision: str | None = None,
        load_in: str | None = None,
        batch_size: int | str = 1,
    ):
        """Arguments of --model_args. Each process of `accelerate launch` takes the GPU of its own number."""
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UserError(f"--batch_size {batch_size}: give a number above 0")
        self.batch_size = int(batch_size)
        if "LOCAL_RANK" in os.environ and torch.cuda.is_available() and device in (None, "cuda"):
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        self.asking = StringPrompts(pretrained, device, precision, load_in)
        self.device = self.asking.vlm.model.device

    def generate_until(self, requests: list[Any]) -> list[str]:
        """One answer a request, in the order of the requests."""
        answers: dict[int, str] = {}
        # Requests of one batch share their settings. Long prompts come first, so that memory runs out at once or never.
        order = sorted(range(len(requests)), key=lambda i: (repr(requests[i].args[1]), -len(requests[i].args[0])))
        with tqdm(total=len(requests), disable=self.rank != 0, desc="levlm") as progress:
            while order:
                settings = requests[order[0]].args[1]
                batch = [i for i in order[: self.batch_size] if requests[i].args[1] == settings]
                order = order[len(batch) :]
                questions = [requests[i].args[0] for i in batch]
                images = [self._images(requests[i].args) for i in batch]
                for i, answer in zip(batch, self.asking.answers(questions, images, settings)):
                    answers[i] = answer
                    self.cache_hook.add_partial("generate_until", (requests[i].args[0], settings), answer)
                progress.update(len(batch))
        return [answers[i] for i in range(len(requests))]

    def _images(self, request: tuple) -> list[Image.Image]:
        """The pictures of a request (context, settings, doc_to_visual, doc id, task, split)."""
        _, _, doc_to_visual, doc_id, task, split = request
        pictures = doc_to_visual(self.task_dict[task][split][doc_id])
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise UserError(f"the task {task} shows videos or sounds; levlm answers questions about images")
        return pictures

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("levlm answers tasks of the output type generate_until; take --model llava_hf")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError("levlm answers tasks of the output type generate_until; none of several rounds")
