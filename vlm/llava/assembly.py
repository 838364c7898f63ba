"""Joins a frozen encoder, a new connector and a frozen LLM into one stock LLaVA."""

import copy
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)

from vlm.encoders.base import VisionEncoder
from vlm.llava.folder import KEEP_FULL
from vlm.llava.model import VLM
from vlm.llava.parity import check_parity, fixture_pixels
from vlm.llava.parts import connector
from vlm.llava.pixels import image_settings
from vlm.llava.tokenizer import end_turns_with, leave_bos_to_template, saved_tokenizer
from vlm.llava.tower import StockTower, stock_tower
from vlm.llms.load import LLM
from vlm.llms.prompt import Prompts


def assemble(
    encoder: VisionEncoder,
    llm: LLM,
    seed: int = 0,
    feature_layer: int | None = None,
) -> VLM:
    """Join a frozen encoder and a frozen LLM by a new connector, LLaVA's Linear-GELU-Linear, into a stock LLaVA.

    The LLM's modules are used as they are, not copied. The ViT is copied. seed: of the connector's initial weights;
    the global random state stays as it was. feature_layer: see `vlm.llava.tower.stock_tower`.
    Raises: UserError if no stock class can hold the encoder, or the chat template cannot serve.
    """
    tower = stock_tower(encoder, feature_layer)
    torch.nn.Module.to(tower.model, llm.model.device)  # transformers' own `to` has no signature
    config = LlavaConfig(
        vision_config=tower.model.config, text_config=llm.model.config, projector_hidden_act="gelu",
        image_token_index=llm.image_token_id, image_seq_length=tower.tokens,
        vision_feature_layer=tower.layer, vision_feature_select_strategy=tower.strategy,
    )  # fmt: skip
    text_config: Any = config.text_config
    text_config._name_or_path = ""  # a path on this machine says nothing elsewhere
    model = _compose(config, tower.model, llm.model)
    _init_connector(model, seed)
    processor = _processor(encoder, tower, llm)
    pixels = fixture_pixels(encoder.config.image_size)
    with torch.no_grad():
        fixture = {"pixels": pixels, "tokens": tower.expected(pixels.to(encoder.device)).float().cpu()}
    check_parity(model, fixture)
    end = Prompts(processor, tower.tokens).end_ids[0]
    end_turns_with(processor.tokenizer, end)
    model.generation_config = _greedy(llm.model.generation_config, end, processor.tokenizer.pad_token_id)
    return VLM(model, processor, fixture)


def _compose(config: LlavaConfig, tower: PreTrainedModel, llm: PreTrainedModel) -> LlavaForConditionalGeneration:
    """Put both models into a LLaVA that was made without weights; its connector is still uninitialised."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.language_model = llm.model
    model.lm_head = llm.lm_head
    model.model.vision_tower = tower
    model.model.multi_modal_projector.to_empty(device=llm.device)
    if getattr(llm, "hf_quantizer", None) is not None:
        _carry_quantisation(model, llm)
    return model.eval()


def _carry_quantisation(model: LlavaForConditionalGeneration, llm: PreTrainedModel) -> None:
    """Tell the whole model that its LLM is quantised, so that stock code can load a saved folder."""
    quantizer: Any = copy.copy(llm.hf_quantizer)
    quantizer.quantization_config = copy.copy(quantizer.quantization_config)
    quantizer.quantization_config.llm_int8_skip_modules = KEEP_FULL
    model.hf_quantizer = quantizer
    model.config.quantization_config = quantizer.quantization_config
    loaded, serializable = ("is_loaded_in_4bit", "is_loaded_in_8bit"), ("is_4bit_serializable", "is_8bit_serializable")
    for name in ("quantization_method", *loaded, *serializable):
        if name in llm.__dict__:
            setattr(model, name, llm.__dict__[name])
    text_config: Any = llm.config
    if "quantization_config" in text_config.__dict__:
        del text_config.quantization_config  # it would be saved a second time, inside text_config


def _init_connector(model: LlavaForConditionalGeneration, seed: int) -> None:
    """Fill both layers as torch fills a Linear, from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), by a generator of our own."""
    projector = connector(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):  # weights [width, vision width] and [width, width]
            for value in (linear.weight, linear.bias):
                value.copy_((torch.rand(value.shape, generator=generator) * 2 - 1) / linear.in_features**0.5)


def _processor(encoder: VisionEncoder, tower: StockTower, llm: LLM) -> LlavaProcessor:
    """Make the processor, which prepares pixels exactly as `encoder.transform`.

    Its image processor is of the class that AutoProcessor loads by default, torchvision's, and not the Pil class, which
    would be reloaded as the former: what users serve with is what was trained on.
    """
    images = CLIPImageProcessor(**image_settings(encoder.config))
    processor = LlavaProcessor(
        images, saved_tokenizer(llm), image_token=llm.image_token, chat_template=llm.chat_template,
        patch_size=encoder.config.patch_size, num_additional_image_tokens=tower.prefix,
        vision_feature_select_strategy=tower.strategy,
    )  # fmt: skip
    leave_bos_to_template(processor)
    return processor


def _greedy(original: GenerationConfig, end: int, pad: int) -> GenerationConfig:
    """Greedy decoding that stops where the template ends a turn; without the LLM's own sampling and penalties."""
    stops = [end]
    eos = original.eos_token_id
    if eos is not None:
        stops += eos if isinstance(eos, list) else [eos]
    stops = list(dict.fromkeys(stops))  # each once, in order
    return GenerationConfig(bos_token_id=original.bos_token_id, eos_token_id=stops, pad_token_id=pad, do_sample=False)
