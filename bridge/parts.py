"""What a run is assembled from, what of it is trained, by which optimizer, and how it becomes a stock LLaVA folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlavaForConditionalGeneration

from bridge.attention import GROUPED, PLAIN
from bridge.card import write_vlm_card
from bridge.config import BridgeConfig
from bridge.forward import Stack, compiled_stack
from vlm.directories import atomic_directory
from vlm.distributed import is_main
from vlm.encoders.by_name import open_encoder
from vlm.errors import writing
from vlm.llava.assembly import assemble
from vlm.llava.model import VLM, load
from vlm.llava.parts import connector, language_model
from vlm.llava.tower import describe_tower
from vlm.llms.load import load_llm
from vlm.llms.precision import chosen_dtype

if TYPE_CHECKING:  # it loads bitsandbytes: seconds, and its warnings
    from peft import PeftModel


def build_vlm(config: BridgeConfig, device: torch.device, load_in: str | None, dtype: torch.dtype | None = None) -> VLM:
    """Encoder + LLM + fresh connector, or the VLM that `--init` names, on `device`.

    load_in: quantisation of the LLM, which the result of a run is assembled without. dtype: None is --precision's, or
    what the device is fast at.
    """
    dtype = dtype or chosen_dtype(config.precision, device)
    examples = not config.lora  # in the prompts of smollm2, which needs them unless it is itself trained
    if config.init:
        return load(config.init, device, dtype, load_in, examples)
    if config.llm is None or config.encoder is None:
        raise ValueError("a run needs --llm and --encoder, or --init; `parse_config` sees to it")
    encoder = open_encoder(config.encoder, config.seed, config.normalisation, config.image_size, config.heads)
    llm = load_llm(config.llm, dtype, load_in, examples)
    vlm = assemble(encoder, llm, seed=config.seed, feature_layer=config.feature_layer)
    if is_main():
        print(describe_tower(vlm.model.config), file=sys.stderr)
    torch.nn.Module.to(vlm.vision_tower, dtype)  # as it will be loaded and served; transformers' `to` has no signature
    if load_in is None:
        torch.nn.Module.to(vlm.model, device)
    return vlm


@dataclass(frozen=True)
class Trainee:
    """A stock LLaVA, the parameters of it that are trained (fp32, by name), and LoRA's wrapper round it, if any.

    stack: its language model's forward, compiled; None: as it is.
    """

    model: LlavaForConditionalGeneration
    weights: dict[str, torch.nn.Parameter]
    adapter: PeftModel | None
    stack: Stack | None = None


def freeze(model: LlavaForConditionalGeneration, config: BridgeConfig) -> Trainee:
    """Freeze everything, then unfreeze what is trained: the connector, and LoRA if asked. Nothing else decides it."""
    model.eval().requires_grad_(False)
    projector, text = connector(model), language_model(model)
    projector.float()  # before peft keeps a copy of it: both then have one dtype
    projector.requires_grad_(not config.lora)  # else peft trains that copy
    adapter = _with_lora(model, config.lora, config.seed) if config.lora else None
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in weights.values():
        parameter.data = parameter.data.float()
    if model.device.type == "cpu":  # SDPA's backward is written for long sequences: plain attention is 1.3x as fast
        text.set_attn_implementation(GROUPED if text.config.model_type in PLAIN else "eager")
    if config.gradient_checkpointing:
        text.gradient_checkpointing_enable({"use_reentrant": False})
        text.train()  # in eval mode checkpointing is off
    return Trainee(model, weights, adapter, compiled_stack(model) if config.compile else None)


def make_optimizer(trainee: Trainee, config: BridgeConfig) -> torch.optim.AdamW:
    """AdamW over what is trained. A group's "peak" is the largest of the learning rates that its steps have."""
    weights = trainee.weights
    lora = [weight for name, weight in weights.items() if "lora_" in name]
    others = [weight for name, weight in weights.items() if "lora_" not in name]
    # Two groups only where two rates are asked for: a run that was begun with one goes on.
    groups: list[dict[str, Any]] = [{"params": list(weights.values()), "peak": config.lr}]
    if config.lr_lora is not None and lora:
        groups = [{"params": others, "peak": config.lr}, {"params": lora, "peak": config.lr_lora}]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def _with_lora(model: LlavaForConditionalGeneration, rank: int, seed: int) -> PeftModel:
    """Put LoRA of `rank` into the model's attention; its first weights are a function of the seed."""
    from peft import LoraConfig, get_peft_model

    # The language model's attention only: the vision tower's layers have projections of the same names.
    targets, whole = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)", ["multi_modal_projector"]
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, lora).eval()


def save_result(vlm: VLM, trainee: Trainee, config: BridgeConfig, run: Path, digests: Mapping[str, str]) -> None:
    """Write RUN/vlm, a stock LLaVA folder in full precision, and, with LoRA, RUN/adapter; say so.

    A quantised LLM is not saved, the one that it came from is: what was trained fits it, and a folder that was
    quantised once can still be loaded in any precision. digests: of what was trained on, for the model card.
    """
    adapter = trainee.adapter
    if adapter is not None:
        with writing(run / "adapter"), atomic_directory(run / "adapter") as partial:
            adapter.save_pretrained(str(partial), save_embedding_layers=False)
    if config.load_in is not None:
        trained, dtype = vlm.connector.state_dict(), vlm.language_model.dtype
        # In the dtype of the run: this CPU may not be fast at it, and would choose one of twice the size.
        vlm = build_vlm(config, torch.device("cpu"), load_in=None, dtype=dtype)
        if adapter is None:
            vlm.connector.load_state_dict(trained)
        else:
            from peft import PeftModel

            vlm.model = PeftModel.from_pretrained(vlm.model, run / "adapter").merge_and_unload()
    elif adapter is not None:
        vlm.model = adapter.merge_and_unload()
    vlm.connector.to(vlm.language_model.dtype)
    vlm.save(run / "vlm")
    write_vlm_card(run / "vlm", config, digests)
    print(f"saved {run / 'vlm'}; score it with: python bridge/evaluate.py {run / 'vlm'}")
