"""A folder with a model of strangers, judged before transformers opens it: regular files, JSON, sizes within bounds.

transformers builds whatever a config.json asks for: ten million layers take minutes and all memory before the weights
are missed.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from vlm.checked import Fields, brief_value, is_number
from vlm.errors import UserError
from vlm.files import read_json
from vlm.reading import check_regular

# The largest that a size may be, by its key. Published models have up to 126 layers and a width of 16,384.
LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "projection_dim", "word_embed_proj_dim"), 65_536),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"), 1_048_576),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "num_heads"), 1_024),
    **dict.fromkeys(("image_size", "height", "width", "shortest_edge", "crop_size", "image_seq_length"), 65_536),
    **dict.fromkeys(("patch_size", "num_channels", "num_register_tokens"), 4_096),
    **dict.fromkeys(("head_dim", "max_length", "max_new_tokens"), 1_000_000),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), 100_000_000),
}
MAY_BE_ZERO = ("num_register_tokens",)
MAY_BE_SEVERAL = ("image_size", "patch_size", "crop_size")  # [14, 14], {"height": 224, "width": 224}
CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
PARSED_ELSEWHERE = ("tokenizer.json", "vocab.json", "merges.json")  # large, and not read by Python
SPARE = 4  # times what the files hold may be asked for: parameters are estimated, and take from half a byte on
# What transformers and safetensors raise for a folder that was damaged or edited.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip


def check_model_folder(folder: str | Path) -> None:
    """Raises: UserError if a file in `folder` is no regular one, its JSON is none, or a size is out of bounds."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        try:
            check_regular(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if path.suffix == ".json" and path.name not in PARSED_ELSEWHERE:
            found = read_json(path)
            if path.name in CONFIGS:
                check_sizes(Fields(found, str(path)))


def check_sizes(config: Fields) -> None:
    """Raises: UserError if a size of a config, or of one inside it, is no whole number or out of bounds."""
    for name, value in config.record.items():
        sized = name in LARGEST and value is not None
        if sized and not (name in MAY_BE_SEVERAL and isinstance(value, list | dict)):
            config.whole(name, 0 if name in MAY_BE_ZERO else 1, LARGEST[name])
        elif isinstance(value, dict):
            check_sizes(Fields(value, f"{config.where}, {name}"))
        elif isinstance(value, float) and not is_number(value):
            raise UserError(f"{config.where}: {name} is {value}; needed is a finite number")
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{config.where}: {name} is {brief_value(value)}, which no model has")
    _check_heads(config)


def _check_heads(config: Fields) -> None:
    sizes = config.record
    heads, width = sizes.get("num_attention_heads"), sizes.get("hidden_size")
    if heads and width and not sizes.get("head_dim") and width % heads:
        raise UserError(f"{config.where}: hidden_size {width} cannot be divided among num_attention_heads {heads}")
    shared = sizes.get("num_key_value_heads")
    if heads and shared and heads % shared:
        raise UserError(f"{config.where}: num_attention_heads {heads} cannot share num_key_value_heads {shared}")


def check_fits(config: Any, folder: str | Path) -> None:
    """Raises: UserError if a model of `config` has far more parameters than the files in `folder` have bytes.

    A folder without *.safetensors is held against this machine's memory. Sizes that config.json leaves out are those
    that transformers takes, as the 32 layers of Llama.
    """
    held = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    asked = parameters(config)
    if held and asked > SPARE * held:
        raise UserError(
            f"the weights in {folder} hold {held:,} bytes, and its config.json asks for about {asked:,} parameters: "
            "they do not belong together, or were cut off; download the model again"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not held and 4 * asked > memory:
        raise UserError(
            f"{folder}/config.json asks for a model of about {asked:,} parameters: {4 * asked:,} bytes, and this "
            f"machine has {memory:,}"
        )


def parameters(config: Any) -> int:
    """About how many a transformers config asks for: its blocks and embeddings, and those of the configs inside it."""
    parts = [getattr(config, name, None) for name in ("text_config", "vision_config")]
    inner = sum(parameters(part) for part in parts if part is not None and not isinstance(part, dict))

    def size(*names: str) -> int:
        values = [getattr(config, name, None) for name in names]
        return next((value for value in values if isinstance(value, int)), 0)

    width, layers = size("hidden_size"), size("num_hidden_layers")
    wide = size("intermediate_size") or 4 * width
    return inner + layers * (2 * width * width + 2 * width * wide) + size("vocab_size") * width
