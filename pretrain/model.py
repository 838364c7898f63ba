"""Both towers, their heads and the logits' scalars as one trainable module, and which of its parameters decay."""

from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.config import PretrainConfig
from pretrain.contrastive import Logits
from pretrain.objective import Embeddings
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, TextTower

LENGTH_GROUPS = 4  # of captions of similar length, at most
GROUP_ROWS = 32  # a smaller group costs more in calls than it saves in pads


def read_cls_alone(vit: VisionTransformer) -> None:
    """From here on `vit(pixels)` computes CLS after the final norm [B, W] as before, but no patch tokens.

    The loss reads CLS alone: in the last block only CLS asks, and only CLS goes through output projection and MLP.
    The block is called as before, so that ZeRO-3 gathers its parameters.
    """
    last = vit.blocks[-1]
    last.forward = partial(_cls_block, last)


def _cls_block(block: nn.Module, x: torch.Tensor, **_) -> torch.Tensor:
    """A pre-norm timm block for its first token only: [B, 1 + N, W] -> [B, 1, W]."""
    attention = block.attn
    q, k, v = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(attention.q_norm(q[:, :, :1]), attention.k_norm(k), v)
    cls = x[:, :1] + block.ls1(attention.proj(attention.norm(seen.transpose(1, 2).flatten(2))))
    return cls + block.ls2(block.mlp(block.norm2(cls)))


def text_features(tower: TextTower, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`tower.features` in groups of similar length, so that short captions are not padded to the longest of the batch.

    ids: int64[B, T], lengths: int64[B] on the CPU -> [B, text_width] in the order given. Groups are cut by what the CPU
    knows, and the rows are moved before them: no group waits for the device.
    """
    order = lengths.argsort(descending=True, stable=True)
    size = max(-(-len(order) // LENGTH_GROUPS), min(len(order), GROUP_ROWS))
    longest = lengths[order[::size]].tolist()
    to_sorted, to_given, ends = (
        part.to(ids.device, non_blocking=True) for part in (order, order.argsort(), lengths[order])
    )
    groups = zip(ids[to_sorted].split(size), ends.split(size), longest)
    return torch.cat([tower.features(rows[:, :most], last) for rows, last, most in groups])[to_given]


def encoder_config(config: PretrainConfig, vocab_size: int, **more) -> EncoderConfig:
    """The sizes of a run's encoder."""
    sizes = {name: getattr(config, name) for name in EncoderConfig.__dataclass_fields__ if hasattr(config, name)}
    return EncoderConfig(**sizes, vocab_size=vocab_size, **more)


class Pretrainer(nn.Module):
    """Images and captions of this rank -> embeddings and predictions.

    The towers run in micro-batches that are recomputed in the backward pass when `micro_batch_size` is set; the heads
    and the loss always see the whole batch, so that BatchNorm and SIGReg are the same function for every micro-batch
    size. This is gradient caching (Gao et al., 2021): the activations of one micro-batch live at a time.
    """

    def __init__(
        self,
        encoder: Encoder,
        micro_batch_size: int = 0,
        dtype: torch.dtype = torch.float32,
        logits: Logits | None = None,
    ):
        super().__init__()
        self.encoder, self.micro_batch_size, self.dtype, self.logits = encoder, micro_batch_size, dtype, logits
        read_cls_alone(encoder.vision)

    def forward(
        self, pixels: torch.Tensor | list[torch.Tensor], ids: torch.Tensor, lengths: torch.Tensor
    ) -> Embeddings:
        """pixels: float32[B, 3, H, W], ids: int64[B, T], lengths: int64[B] -> Embeddings.

        Several views of an image come as a list of float32[B, V, 3, H, W], one for each crop size, global crops first.
        """
        with torch.autocast(ids.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            z_v, views = self._embed_images(pixels)
            text = self._in_micro_batches(partial(text_features, self.encoder.text), ids, lengths)
            z_t = self.encoder.text.pre_proj(text)
            predictions = self.encoder.predict_text(z_v), self.encoder.predict_image(z_t)
            return Embeddings(z_v, z_t, *predictions, views, *(self.logits() if self.logits else ()))

    def _embed_images(self, pixels: torch.Tensor | list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """-> (z_v [B, E], views [V, B, E] or None). The head's BatchNorm reads the rows of all views together."""
        image = self.encoder.image
        if isinstance(pixels, torch.Tensor):
            return image.pre_proj(self._in_micro_batches(image.features, pixels)), None
        rows = [self._in_micro_batches(image.features, crops.transpose(0, 1).flatten(0, 1)) for crops in pixels]
        views = image.pre_proj(torch.cat(rows)).unflatten(0, (-1, len(pixels[0])))
        global_views = views[: pixels[0].shape[1]]
        return global_views.mean(0, dtype=torch.promote_types(views.dtype, torch.float32)), views

    def _in_micro_batches(self, tower, *inputs: torch.Tensor) -> torch.Tensor:
        if not 0 < self.micro_batch_size < len(inputs[0]):
            return tower(*inputs)
        pieces = zip(*(part.split(self.micro_batch_size) for part in inputs))
        return torch.cat([checkpoint(tower, *piece, use_reentrant=False) for piece in pieces])


def use_fast_attention(encoder: Encoder, device: torch.device) -> None:
    """On CPUs plain attention trains these towers faster than SDPA, whose backward is written for long sequences."""
    if device.type == "cpu":
        encoder.text.encoder.set_attn_implementation("eager")
        for block in encoder.vision.blocks:
            block.attn.fused_attn = False


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two AdamW groups: matrices decay; biases, norms, CLS, position and token embeddings, logits' scalars do not."""
    embeddings = ("cls_token", "pos_embed", "wte.weight", "wpe.weight")
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith(embeddings) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
