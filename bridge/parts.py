"""What a run is assembled from, which of it is trained, and how the result becomes a stock LLaVA folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bridge.config import BridgeConfig
from vlm.encoders.by_name import open_encoder
from vlm.files import atomic_directory
from vlm.llava.assembly import assemble
from vlm.llava.model import VLM, load
from vlm.llms.load import load_llm
from vlm.llms.precision import default_dtype
from vlm.llms.prompt import without_examples

if TYPE_CHECKING:  # it loads bitsandbytes: seconds, and its warnings
    from peft import PeftModel

# The language model's attention only: the vision tower's layers have projections of the same names.
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
CONNECTOR = "multi_modal_projector"


def build_vlm(config: BridgeConfig, device: torch.device, load_in: str | None) -> VLM:
    """Encoder + LLM + fresh connector, or the VLM that `--init` names, on `device` in the run's precision."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, None: default_dtype(device)}[config.precision]
    if config.init:
        vlm = load(config.init, device, dtype, load_in)
        if config.lora:
            template = without_examples(vlm.processor.chat_template)
            vlm.processor.chat_template = vlm.processor.tokenizer.chat_template = template
        return vlm
    llm = load_llm(config.llm, dtype, load_in, examples=not config.lora)
    encoder = open_encoder(config.encoder, config.seed, config.normalisation)
    vlm = assemble(encoder, llm, seed=config.seed)
    vlm.vision_tower.to(dtype)  # as it will be loaded and served
    if load_in is None:
        vlm.model.to(device)
    return vlm


@dataclass(frozen=True)
class Trainee:
    """An assembled VLM, the parameters that are trained (fp32, by name), and LoRA's wrapper round its model, if any."""

    vlm: VLM
    weights: dict[str, torch.nn.Parameter]
    adapter: PeftModel | None


def freeze(vlm: VLM, config: BridgeConfig) -> Trainee:
    """Freeze everything, then unfreeze what is trained: the connector, and LoRA where asked.

    This is the only place that decides.
    """
    model, adapter = vlm.model.eval().requires_grad_(False), None
    vlm.connector.float()  # before peft keeps a copy of it: both then have one dtype
    if config.lora:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=config.lora,
            lora_alpha=2 * config.lora,
            target_modules=LORA_TARGETS,
            modules_to_save=[CONNECTOR],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            adapter = get_peft_model(model, lora).eval()
    else:
        vlm.connector.requires_grad_(True)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in weights.values():
        parameter.data = parameter.data.float()
    if model.device.type == "cpu":  # SDPA's backward is written for long sequences: plain attention is 1.3x as fast
        vlm.language_model.set_attn_implementation("eager")
    if config.gradient_checkpointing:
        vlm.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        vlm.language_model.train()  # in eval mode checkpointing is off
    return Trainee(vlm, weights, adapter)


def save_result(trainee: Trainee, config: BridgeConfig, run: Path) -> None:
    """Write RUN/vlm, a stock LLaVA folder in full precision, and, with LoRA, RUN/adapter.

    A quantised LLM is not saved, the one that it came from is: what was trained fits it, and a folder that was
    quantised once can still be loaded in any precision.
    """
    vlm = trainee.vlm
    if trainee.adapter is not None:
        with atomic_directory(run / "adapter") as partial:
            trainee.adapter.save_pretrained(partial, save_embedding_layers=False)
        if config.load_in is None:
            vlm.model = trainee.adapter.merge_and_unload()
    if config.load_in is not None:
        connector = vlm.connector.state_dict()
        vlm = build_vlm(config, torch.device("cpu"), load_in=None)
        if trainee.adapter is not None:
            from peft import PeftModel

            vlm.model = PeftModel.from_pretrained(vlm.model, run / "adapter").merge_and_unload()
        else:
            vlm.connector.load_state_dict(connector)
    vlm.connector.to(vlm.language_model.dtype)
    vlm.save(run / "vlm")
