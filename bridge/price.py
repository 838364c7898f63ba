"""What a training step costs: operations and memory, by the sizes of the models alone.

A product [m, k] x [k, n] has 2 m k n operations; norms and such are not counted. The frozen parts take one product a
weight forward and one backward, since nothing but the connector learns.

Memory of a process, with 2 bytes a frozen weight and 16 a trained one (weight, gradient, two moments). Of each token a
frozen layer of width d keeps for the backward pass, in bf16: queries and output (2 d), keys and values, and three
vectors of the MLP's inner width; of its two norms the input, in bf16 and fp32 (6 d bytes each). A label keeps its
logits in bf16 and twice in fp32. Not counted: temporaries, libraries' workspaces, what the allocator wastes.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextSizes:
    """A decoder-only language model. keys: width of all its keys, as of its values."""

    width: int
    layers: int
    heads: int
    keys: int
    queries: int
    inner: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "TextSizes":
        """From what a model's config.json says."""
        width, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or width // heads
        return cls(
            width, config["num_hidden_layers"], heads, head * (config.get("num_key_value_heads") or heads),
            head * heads, config["intermediate_size"], config["vocab_size"],
            bool(config.get("tie_word_embeddings", True)),
        )  # fmt: skip

    @property
    def layer(self) -> int:
        """Weights of a layer: queries and output, keys and values, MLP."""
        return 2 * self.width * self.queries + 2 * self.width * self.keys + 3 * self.width * self.inner

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.width * (1 if self.tied else 2)


@dataclass(frozen=True)
class VisionSizes:
    """A ViT, by default ViT-B/16 at 224 pixels."""

    width: int = 768
    layers: int = 12
    inner: int = 3072
    patch: int = 16
    patches: int = 196

    @property
    def layer(self) -> int:
        return 4 * self.width**2 + 2 * self.width * self.inner

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.width * (3 * self.patch**2 + self.patches + 1)


def connector_parameters(text: TextSizes, vision: VisionSizes) -> int:
    """LLaVA's Linear-GELU-Linear."""
    return (vision.width + 1) * text.width + (text.width + 1) * text.width


def step_flops(
    text: TextSizes, vision: VisionSizes, tokens: float, keys: float, logits: float, images: float, encoded: float
) -> dict[str, float]:
    """Floating-point operations of a training step, by part.

    tokens: in the LLM with padding, each of which attends to `keys`. images: through the connector; encoded: through
    the vision tower as well.
    """
    seen = vision.patches + 1  # with CLS
    block = seen * vision.layer + 2 * seen**2 * vision.width
    return {
        "layers": 4 * tokens * text.layers * text.layer,
        "attention": 12 * tokens * keys * text.layers * text.queries,
        "logits": 4 * logits * text.width * text.vocabulary,
        "connector": images * vision.patches * (4 * vision.width * text.width + 6 * text.width**2),
        "vision": 2 * encoded * (vision.layers * block + vision.patches * 3 * vision.patch**2 * vision.width),
    }


def memory(text: TextSizes, vision: VisionSizes, tokens: float, labels: float) -> dict[str, float]:
    """Bytes of a process whose micro-batches have so many tokens and labels, by kind; see above."""
    kept = 2 * (2 * text.queries + 2 * text.keys + 3 * text.inner) + 2 * 6 * text.width  # of a token and layer
    return {
        "frozen weights": 2 * (text.parameters + vision.parameters),
        "connector": 16 * connector_parameters(text, vision),
        "activations": tokens * text.layers * kept,
        "logits": labels * text.vocabulary * (2 + 4 + 4),
    }
