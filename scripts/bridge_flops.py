"""Floating-point operations of a training step, by part, for scripts/bench_bridge.py."""

from transformers import LlavaConfig


def step_flops(
    config: LlavaConfig, rows: float, width: float, keys: float, logits: float, images: float, encoded: float
) -> dict[str, float]:
    """Floating-point operations of a training step; a product [m, k] x [k, n] has 2 m k n, norms and such none.

    rows x width: tokens in the LLM, each of which attends to `keys`; images: through the connector; encoded: through
    the vision tower as well. Forward takes one product a weight, backward one more: nothing but the connector learns.
    """
    text, vision = config.text_config, config.vision_config
    d, v = text.hidden_size, vision.hidden_size
    grouped = d * text.num_key_value_heads // text.num_attention_heads
    layer = 2 * d * d + 2 * d * grouped + 3 * d * text.intermediate_size
    patches = (vision.image_size // vision.patch_size) ** 2
    block = (patches + 1) * (4 * v * v + 2 * v * vision.intermediate_size) + 2 * (patches + 1) ** 2 * v
    return {
        "layers": 4 * rows * width * text.num_hidden_layers * layer,
        "attention": 12 * rows * width * keys * text.num_hidden_layers * d,
        "logits": 4 * logits * d * text.vocab_size,
        "connector": images * patches * (4 * v * d + 6 * d * d),
        "vision": 2 * encoded * (vision.num_hidden_layers * block + patches * 3 * vision.patch_size**2 * v),
    }
