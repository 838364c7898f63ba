"""A VLM on disk: a stock LLaVA folder, with the connector alone and the parity fixture beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vlm.directories import atomic_directory
from vlm.encoders.weights import on_disk
from vlm.errors import UserError, memory_ran_out, writing
from vlm.files import read_json, write_json
from vlm.hub import is_hub_id, model_folder
from vlm.integrity import verify, write_manifest
from vlm.llava.parity import Fixture, check_parity, connector_input, fixture_pixels, stored_fixture
from vlm.llava.parts import connector, language_model, vision_tower
from vlm.llms.precision import Device, chosen_device, default_dtype, keep_layout, quantised
from vlm.llms.rendering import BadTemplate
from vlm.model_files import UNREADABLE, check_fits, check_model_folder
from vlm.saving import without_deepspeed

# Modules that are never quantised. By bare names, without the prefixes, the whole model would be, in silence.
KEEP_FULL = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
SMALL = 1 << 17  # bytes of the settings, the fixture, and names and shapes of weights
# What is fetched of a VLM on the hub.
FILES = ["*.json", "*.jinja", "*.safetensors", "README.md"]


def save_folder(
    folder: str | Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor, fixture: Fixture | None
) -> None:
    """Write a stock LLaVA folder, whole or not at all, with `connector.safetensors` and `parity.safetensors`.

    An older VLM in its place is replaced.
    Raises: UserError if `folder` holds something else than a VLM, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_llava(folder))):
        raise UserError(f"{folder} holds something else than a VLM: give another --out, or move it away")
    weights = sum(weight.nbytes for weight in [*model.parameters(), *connector(model).parameters()])
    size = weights + len(processor.tokenizer.backend_tokenizer.to_str()) + SMALL
    with writing(folder, needed=size), atomic_directory(folder) as partial:
        with without_deepspeed():
            model.save_pretrained(partial)
        # Stock code loads everything in one dtype: config.json's or, if that is wrong, the first tensor's, the tower's.
        dtype = str(language_model(model).dtype).removeprefix("torch.")
        write_json(partial / "config.json", {**read_json(partial / "config.json"), "dtype": dtype})
        processor.save_pretrained(partial)
        save_connector(model, partial / "connector.safetensors")
        if fixture is not None:
            save_file(stored_fixture(model, fixture), partial / "parity.safetensors")
        write_manifest(partial)


def load_folder(
    folder: str | Path, device: Device = None, dtype: torch.dtype | None = None, load_in: str | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, Fixture | None]:
    """Read what `save_folder` wrote: frozen, in eval mode, on `device`. Arguments and errors as for `vlm.load`."""
    folder = local_folder(folder)
    processor = load_processor(folder)
    if not isinstance(device, torch.device):
        device = chosen_device(device)
    dtype = dtype or default_dtype(device)
    quantisation = quantised(load_in, dtype, KEEP_FULL) if load_in else {}
    options = {"dtype": dtype, "local_files_only": True, "output_loading_info": True, **quantisation}
    try:
        check_fits(AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True), folder)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, **options
        )
        fixture = load_file(folder / "parity.safetensors") if (folder / "parity.safetensors").exists() else None
    except UserError:
        raise
    except UNREADABLE as error:
        if memory_ran_out(error):
            raise
        mismatch = "ignore_mismatched_sizes" in str(error)
        reason = "its weights have other shapes than its config.json says" if mismatch else error
        raise UserError(f"{folder} cannot be loaded ({reason}): copy or train it again") from error
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in report.items() if names}
    if wrong:
        raise UserError(f"{folder} does not fit its config.json: {json.dumps(wrong)}; copy or train it again")
    if getattr(model, "hf_quantizer", None) is None:
        model.to(device)
    keep_layout(model)
    _check_images(model.eval(), processor, fixture, folder)
    return model.requires_grad_(False), processor, fixture


def _check_images(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, fixture: Fixture | None, folder: Path
) -> None:
    """Raise a UserError if the vision tower gives other tokens than it did, or than config.json has slots for."""
    vision: Any = vision_tower(model).config
    try:
        if fixture is not None:
            check_parity(model, fixture)
            tokens = fixture["tokens"].shape[1]
        else:
            tokens = connector_input(model, fixture_pixels(vision.image_size)).shape[1]
    except UserError:
        raise
    except UNREADABLE as error:
        if memory_ran_out(error):
            raise
        reason = f"its vision tower cannot be asked, {type(error).__name__}: {error}"
        raise UserError(f"{folder} cannot be loaded ({reason}): copy or train it again") from error
    for name, said, needed in (
        ("image_seq_length", model.config.image_seq_length, tokens),
        ("image_token_id", model.config.image_token_id, processor.image_token_id),
    ):
        if said != needed:
            raise UserError(f"{folder}/config.json has {name} {said}, but it must be {needed}: copy or train it again")


def load_processor(folder: str | Path) -> LlavaProcessor:
    """The processor of a saved VLM, as stock tools load it, once the whole folder is verified.

    Raises: UserError if there is none, or the folder is not what its manifest says.
    """
    folder = local_folder(folder)
    if not is_llava(folder):
        raise UserError(f"{folder} is not a VLM: give RUN/vlm of a bridge/train.py run (its config.json says llava)")
    check_model_folder(folder)
    verify(folder)
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
        text = str(processor.apply_chat_template(asked, add_generation_prompt=True))
    except BadTemplate as error:
        raise UserError(f"{folder}: {error}") from None
    except UNREADABLE as error:
        raise UserError(f"the processor in {folder} cannot be loaded ({error}): copy or train it again") from error
    if not isinstance(processor, LlavaProcessor):
        raise UserError(f"{folder} has no LLaVA processor but a {type(processor).__name__}: copy or train it again")
    if text.count(processor.image_token) != 1:
        raise UserError(f"the chat template of {folder} has no place for a picture: copy or train it again")
    return processor


def local_folder(name: str | Path) -> Path:
    """The folder `name`, or the cached snapshot of a hub id (OWNER/NAME), which is fetched if the hub can be reached.

    Raises: UserError if it is a hub id that can be had from neither.
    """
    if "\0" in str(name):
        raise UserError(f"{str(name)!a} is no path: give RUN/vlm of a bridge/train.py run")
    if Path(name).exists() or not is_hub_id(str(name)):
        return Path(name)
    return model_folder(str(name), FILES, "give RUN/vlm of a bridge/train.py run")


def is_llava(folder: Path) -> bool:
    """Whether its config.json says so."""
    if not (folder / "config.json").is_file():
        return False
    found = read_json(folder / "config.json")
    return isinstance(found, dict) and found.get("model_type") == "llava"


def save_connector(model: LlavaForConditionalGeneration, file: str | Path) -> None:
    """Write the connector alone (a few MB), with the fingerprint of the vision tower that it was trained for."""
    save_file(on_disk(connector(model)), file, metadata={"vision_tower": _tower_fingerprint(model)})


def _tower_fingerprint(model: LlavaForConditionalGeneration) -> str:
    """A hash of the vision tower's weights, rounded to bfloat16 so that fp32 and bf16 copies agree."""
    digest = hashlib.sha256()
    for name, value in sorted(vision_tower(model).state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
