"""A VLM in memory and on disk: a stock LLaVA that answers, streams, saves and loads."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    StoppingCriteria,
    TextIteratorStreamer,
)

from vlm.checkpoint import atomic_directory
from vlm.errors import UserError, writing
from vlm.images import load_image, upright_rgb
from vlm.llm import default_dtype, keep_layout, quantised
from vlm.logs import read_json, write_json
from vlm.prompt import History, Prompts
from vlm.tower import check_parity

# Not quantised. Full prefixes: bare names would quantise the whole model in silence.
KEEP_FULL = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
# What transformers and safetensors raise about a folder that was damaged or edited.
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, StrictDataclassError,
)  # fmt: skip


class VLM:
    """A stock `LlavaForConditionalGeneration` and `LlavaProcessor` that answer questions about an image."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        fixture: dict[str, torch.Tensor] | None = None,
    ):
        self.model = model
        self.processor = processor
        self.fixture = fixture
        self.prompts = Prompts(processor, model.config.image_seq_length)
        self.prompt_ids = self.prompts.prompt_ids
        self.conversation_ids = self.prompts.conversation_ids

    @property
    def connector(self) -> nn.Module:
        return self.model.model.multi_modal_projector

    def answer(
        self,
        image: Image.Image | str | Path | None,
        question: str,
        max_new_tokens: int = 64,
        history: History = (),
    ) -> str:
        """The greedy answer. image: a PIL image, a file, or None for a question without one. history: earlier turns."""
        inputs = self._inputs(image, question, history)
        with torch.no_grad():
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        return self.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def stream(
        self,
        image: Image.Image | str | Path | None,
        question: str,
        max_new_tokens: int = 64,
        history: History = (),
    ) -> Iterator[str]:
        """The pieces of `answer` as they are made. Closing the iterator stops the generation."""
        inputs = self._inputs(image, question, history)  # errors in what the user gave are raised here, at once
        return self._pieces(inputs, max_new_tokens)

    def _inputs(self, image: Image.Image | str | Path | None, question: str, history: History) -> dict:
        ids = torch.tensor([self.prompt_ids(question, image is not None, history=history)], device=self.model.device)
        # Every position is real: nothing is inferred from the pad id, which may also be a token of the prompt.
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if image is not None:
            image = load_image(image) if isinstance(image, str | Path) else upright_rgb(image)
            pixels = self.processor.image_processor(images=image, return_tensors="pt").pixel_values
            inputs["pixel_values"] = pixels.to(self.model.device)
        return inputs

    def _pieces(self, inputs: dict, max_new_tokens: int) -> Iterator[str]:
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = _Stop()
        errors = []

        def generate() -> None:
            try:
                with torch.no_grad():
                    self.model.generate(
                        **inputs,
                        do_sample=False,
                        max_new_tokens=max_new_tokens,
                        streamer=streamer,
                        stopping_criteria=[stop],
                    )
            except BaseException as error:  # raised again where the pieces are read
                errors.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            said, space = False, ""
            for piece in streamer:
                # White space waits for the text after it, so that the pieces join to a stripped answer.
                piece = space + piece if said else piece.lstrip()
                text = piece.rstrip()
                space = piece[len(text) :]
                if text:
                    said = True
                    yield text
            if errors:
                raise errors[0]
        finally:
            stop.set()
            thread.join()

    def save(self, folder: str | Path) -> None:
        """Write a stock LLaVA folder, whole or not at all, with `connector.safetensors` and `parity.safetensors`.

        An older VLM in `folder` is replaced; any other folder with content is a `UserError`.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not _is_llava(folder):
            raise UserError(f"{folder} holds something else than a VLM: give another --out, or move it away")
        with writing(folder, SafetensorError), atomic_directory(folder) as partial:
            self.model.save_pretrained(partial)
            # Stock code loads everything in one dtype, and takes the first tensor's, the tower's, where this is wrong.
            config = {**read_json(partial / "config.json"), "dtype": str(self.model.model.language_model.dtype)[6:]}
            write_json(partial / "config.json", config)
            self.processor.save_pretrained(partial)
            save_connector(self, partial / "connector.safetensors")
            if self.fixture is not None:
                save_file(self.fixture, partial / "parity.safetensors")
            for file in partial.iterdir():  # weights are written for the owner alone otherwise
                file.chmod(0o644)


class _Stop(StoppingCriteria, threading.Event):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        return torch.full((len(input_ids),), self.is_set(), device=input_ids.device)


def load(
    folder: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    load_in: str | None = None,
) -> VLM:
    """Read a folder written by `VLM.save`: in eval mode, on the GPU where there is one, in `default_dtype`.

    load_in: "4bit" or "8bit" quantises the LLM with bitsandbytes, as `load_llm` does; it then chooses the device.
    Its vision tower is compared with the features it had when it was assembled. `UserError` where the folder is
    something else, a file is missing or damaged, or the features differ.
    """
    folder = Path(folder)
    processor = load_processor(folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or default_dtype(device)
    quantisation = quantised(load_in, dtype, KEEP_FULL) if load_in else {}
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **quantisation,
        )
        fixture = load_file(folder / "parity.safetensors") if (folder / "parity.safetensors").exists() else None
    except UNREADABLE as error:
        mismatch = "ignore_mismatched_sizes" in str(error)
        reason = "its weights have other shapes than its config.json says" if mismatch else error
        raise UserError(f"{folder} cannot be loaded ({reason}): copy or train it again") from error
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in report.items() if names}
    if wrong:
        raise UserError(f"{folder} does not fit its config.json: {json.dumps(wrong)}; copy or train it again")
    if getattr(model, "hf_quantizer", None) is None:
        model.to(device)
    keep_layout(model)
    if fixture is not None:
        check_parity(model, fixture)
    return VLM(model.eval().requires_grad_(False), processor, fixture)


def load_processor(folder: str | Path) -> LlavaProcessor:
    """The processor of a saved VLM, preparing pixels as in training; `UserError` where the folder is something else."""
    folder = Path(folder)
    if not _is_llava(folder):
        raise UserError(f"{folder} is not a VLM: give RUN/vlm of a bridge/train.py run (its config.json says llava)")
    try:
        return AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)
    except UNREADABLE as error:
        raise UserError(f"the processor in {folder} cannot be loaded ({error}): copy or train it again") from error


def _is_llava(folder: Path) -> bool:
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") == "llava"


def save_connector(vlm: VLM, file: str | Path) -> None:
    """Write the connector alone (a few MB), with the fingerprint of the vision tower it was trained for."""
    weights = {name: value.detach().float().cpu().contiguous() for name, value in vlm.connector.state_dict().items()}
    save_file(weights, file, metadata={"vision_tower": _fingerprint(vlm)})


def load_connector(vlm: VLM, file: str | Path) -> None:
    """Put a saved connector into `vlm`; `UserError` where it was trained for another encoder or LLM width."""
    try:
        with safe_open(file, "pt") as stream:
            metadata = stream.metadata() or {}
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the connector {file} cannot be read ({error})") from None
    expected = {name: tuple(value.shape) for name, value in vlm.connector.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        raise UserError(f"the connector {file} has the shapes {found}; this encoder and LLM need {expected}")
    if metadata.get("vision_tower") != _fingerprint(vlm):
        raise UserError(f"the connector {file} was trained for another encoder: give the encoder of its own run")
    vlm.connector.load_state_dict(weights)


def _fingerprint(vlm: VLM) -> str:
    """A hash of the vision tower's weights, rounded to bfloat16 so that fp32 and bf16 copies agree."""
    digest = hashlib.sha256()
    for name, value in sorted(vlm.model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
