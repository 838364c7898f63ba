"""`--format vipllava`: the same model for transformers before 5.18, which read LLaVA's features before the last norm.

`VipLlavaForConditionalGeneration` has a LayerNorm of its own in front of the connector. It gets the tower's last norm,
and reads the hidden state before it: the two are then exactly what LLaVA reads in transformers 5.18 and later.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

from vlm.apps.export.comparing import compare, expected
from vlm.apps.export.huggingface import vlm_card
from vlm.cards.card import write_card
from vlm.errors import UserError, writing
from vlm.files import read_json, write_json
from vlm.llava.model import VLM, load
from vlm.llava.tower import describe_tower
from vlm.llms.precision import chosen_device, default_dtype

STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def write_vipllava(source: Path, out: Path, name: str, results: str | None) -> str:
    """Write a stock VipLlava folder with a card -> what the comparison found.

    Raises: UserError if LLaVA does not read this tower behind its last norm, or keeps its first token.
    """
    card = vlm_card(source, name, results)
    stored: Any = read_json(source / "config.json")
    device = chosen_device(None)
    dtype = STORED.get(stored.get("dtype"), torch.float32)
    vlm = load(source, torch.device("cpu"), dtype)
    _check(vlm.model.config)
    with writing(out, needed=sum(weight.nbytes for weight in vlm.model.parameters())):
        _rewritten(vlm).save_pretrained(out)
        vlm.processor.save_pretrained(out)
        _for_older_versions(out)
    write_card(card, out)
    dtype = default_dtype(device)
    wanted = expected(load(source, device, dtype))
    return compare(out, wanted, dtype, device)


def _check(config: Any) -> None:
    vision = config.vision_config
    last = config.vision_feature_layer in (-1, vision.num_hidden_layers)
    if vision.model_type != "vit" or not last or config.vision_feature_select_strategy != "default":
        raise UserError(
            f"vipllava reads patches behind a norm, without a class token; this VLM has another tower "
            f"({describe_tower(config)}): give --format hf"
        )


def _rewritten(vlm: VLM) -> VipLlavaForConditionalGeneration:
    """The same weights as a VipLlava; tensors are shared, not copied."""
    old: Any = vlm.model.config
    vision = copy.deepcopy(old.vision_config)
    vision.tie_last_hidden_states = False
    config = VipLlavaConfig(
        vision_config=vision, text_config=copy.deepcopy(old.text_config), image_token_index=old.image_token_index,
        image_seq_length=old.image_seq_length, projector_hidden_act=old.projector_hidden_act,
        projector_layernorm_eps=vision.layer_norm_eps, vision_feature_layer=[-1],
        tie_word_embeddings=old.tie_word_embeddings,
    )  # fmt: skip
    with torch.device("meta"):
        model = VipLlavaForConditionalGeneration(config)
    weights = dict(vlm.model.state_dict())
    for kind in ("weight", "bias"):
        norm = weights[f"model.vision_tower.layernorm.{kind}"]
        weights[f"model.multi_modal_projector.projector_layernorm.{kind}"] = norm.clone()
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = vlm.model.generation_config
    return model.eval()


def _for_older_versions(out: Path) -> None:
    """Say in the words of earlier transformers, too, what 5.x calls otherwise. Each version ignores the other's."""
    config = read_json(out / "config.json")
    config["vision_feature_layers"] = config["vision_feature_layer"] = [-1]
    config["torch_dtype"] = config["dtype"]
    text = config["text_config"]
    rope = dict(text.get("rope_parameters") or {})
    text["rope_theta"] = rope.pop("rope_theta", text.get("rope_theta", 10000.0))
    text["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    write_json(out / "config.json", config)
    processor = read_json(out / "processor_config.json")
    write_json(out / "preprocessor_config.json", {**processor["image_processor"], "processor_class": "LlavaProcessor"})
    # The second: they would hand token types to LLaVA, which has none.
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    tokenizer = read_json(out / "tokenizer_config.json")
    write_json(out / "tokenizer_config.json", {**tokenizer, **names})
