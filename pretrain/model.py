"""Both towers, their heads and the scale of the logits as one trainable module, and which of its parameters decay."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Model

from pretrain.config import PretrainConfig
from pretrain.contrastive import LogitScale
from pretrain.objective import Embeddings
from vlm.device import sent
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import Encoder, TextTower
from vlm.pixels import scaled_statistics

LENGTH_GROUPS = 4  # of captions of similar length, at most
GROUP_ROWS = 32  # a smaller group costs more in calls than it saves in pads


def read_cls_alone(vit: VisionTransformer) -> None:
    """From here on `vit(pixels)` computes CLS after the final norm [B, W] as before, but no patch tokens.

    The loss reads CLS alone: in the last block only CLS asks, and only CLS goes through output projection and MLP.
    The block stays the module that it was, with another `forward`, so that names of parameters stay, and ZeRO-3, whose
    hooks are the module's, gathers its parameters when it is called.
    """
    last = vit.blocks[-1]
    if not isinstance(last, Block) or not isinstance(last.attn, Attention):
        raise TypeError(f"{type(last).__name__} is not timm's Block, whose formula is read for CLS alone")
    last.forward = partial(_cls_block, last, last.attn)


def _cls_block(block: Block, attention: Attention, x: torch.Tensor, **_: Any) -> torch.Tensor:
    """timm's pre-norm block for its first token only: [B, 1 + N, W] -> [B, 1, W]."""
    qkv = attention.qkv(block.norm1(x))  # [B, 1 + N, 3 W]
    q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, 1 + N, W / heads]
    cls_q = attention.q_norm(q[:, :, :1])
    seen = functional.scaled_dot_product_attention(cls_q, attention.k_norm(k), v)  # [B, heads, 1, W / heads]
    seen = seen.transpose(1, 2).flatten(2)  # [B, 1, W]
    cls = x[:, :1] + block.ls1(attention.proj(attention.norm(seen)))
    return cls + block.ls2(block.mlp(block.norm2(cls)))


def text_features(tower: TextTower, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`tower.features` in groups of similar length, so that short captions are not padded to the longest of the batch.

    ids: int64[B, T], lengths: int64[B] on the CPU -> [B, text_width] in the order given. Lengths 9 2 5 7 in groups of
    two are read as (9 7)(5 2), the first cut to 9 tokens and the second to 5. Groups are cut by what the CPU knows, and
    the rows are moved before them: no group waits for the device.
    """
    order = lengths.argsort(descending=True, stable=True)  # row numbers, longest caption first
    size = max(-(-len(order) // LENGTH_GROUPS), min(len(order), GROUP_ROWS))
    longest = lengths[order[::size]].tolist()  # of each group, its first
    by_rows = order, order.argsort(), lengths[order]
    to_sorted, to_given, sorted_lengths = (sent(part, ids.device) for part in by_rows)
    groups = zip(ids[to_sorted].split(size), sorted_lengths.split(size), longest)
    read = [tower.features(rows[:, :most], row_lengths) for rows, row_lengths, most in groups]  # [size, W] each
    return torch.cat(read)[to_given]


def encoder_config(config: PretrainConfig, vocab_size: int, **more: Any) -> EncoderConfig:
    """The sizes of a run's encoder: the settings of both that have one name. more: further fields of EncoderConfig."""
    shared = {field.name for field in fields(EncoderConfig)} & {field.name for field in fields(config)}
    return EncoderConfig(**{name: getattr(config, name) for name in shared}, vocab_size=vocab_size, **more)


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
        logit_scale: LogitScale | None = None,
    ):
        """micro_batch_size: rows of this rank whose activations are kept at a time, 0 for all.

        logit_scale: for CLIP's and SigLIP's objectives. `encoder.vision` gives no patch tokens from here on.
        """
        super().__init__()
        self.encoder, self.micro_batch_size, self.dtype = encoder, micro_batch_size, dtype
        self.logits = logit_scale  # by this name checkpoints have its tensors: weight/logits.scale
        read_cls_alone(encoder.vision)
        mean, std = scaled_statistics(encoder.config.mean, encoder.config.std)  # [3, 1] each
        self.register_buffer("mean", torch.from_numpy(mean)[..., None].to(encoder.device), persistent=False)
        self.register_buffer("std", torch.from_numpy(std)[..., None].to(encoder.device), persistent=False)

    def forward(
        self, pixels: torch.Tensor | list[torch.Tensor], ids: torch.Tensor, lengths: torch.Tensor
    ) -> Embeddings:
        """pixels: uint8[B, 3, H, W], or float32 if they are normalised; ids: int64[B, T], lengths: int64[B] on the CPU.

        Several views of an image come as a list of [B, V, 3, H, W], one for each crop size, global crops first.
        """
        # With micro-batches autocast must not keep its bf16 copies of the weights: their gradients would be summed over
        # the micro-batches in bf16, through the copy, instead of in fp32.
        cached = not self._splits(len(ids))
        half = self.dtype != torch.float32
        with torch.autocast(ids.device.type, dtype=self.dtype, enabled=half, cache_enabled=cached):
            z_v, views = self._embed_images(pixels)
            text = self._in_micro_batches(partial(text_features, self.encoder.text), ids, lengths)
            z_t = self.encoder.text.pre_proj(text)
            to_text, to_image = self.encoder.predict_text(z_v), self.encoder.predict_image(z_t)
            scale, bias = self.logits() if self.logits else (None, None)
            return Embeddings(z_v, z_t, to_text, to_image, views, scale, bias)

    def _embed_images(self, pixels: torch.Tensor | list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """-> (z_v [B, E], views [V, B, E] or None). The head's BatchNorm reads the rows of all views together."""
        image = self.encoder.image
        if isinstance(pixels, torch.Tensor):
            return image.pre_proj(self._in_micro_batches(self._image_features, pixels)), None
        batch, global_crops = pixels[0].shape[:2]
        view_by_view = [crops.transpose(0, 1).flatten(0, 1) for crops in pixels]  # of each size [V * B, 3, h, w]
        features = [self._in_micro_batches(self._image_features, crops) for crops in view_by_view]
        views = image.pre_proj(torch.cat(features)).unflatten(0, (-1, batch))  # [all views, B, E]
        return views[:global_crops].mean(0, dtype=torch.promote_types(views.dtype, torch.float32)), views

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or float32[B, 3, H, W] -> CLS [B, vision_width]; bytes are normalised here, piece by piece."""
        if pixels.dtype == torch.uint8:
            # By tensors: CUDA would multiply by the reciprocal of a number, and miss the last bit.
            pixels = pixels.float().sub_(self.mean).div_(self.std)
        return self.encoder.image.features(pixels)

    def _splits(self, rows: int) -> bool:
        return 0 < self.micro_batch_size < rows

    def _in_micro_batches(self, tower: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """`tower(*inputs)`, piece by piece along the rows; each piece is computed again in the backward pass."""
        if not self._splits(len(inputs[0])):
            return tower(*inputs)
        pieces = zip(*(part.split(self.micro_batch_size) for part in inputs))
        return torch.cat([checkpoint(tower, *piece, use_reentrant=False) for piece in pieces])


def use_fast_attention(encoder: Encoder, device: torch.device) -> None:
    """On CPUs plain attention trains these towers faster than SDPA, whose backward is written for long sequences."""
    if device.type != "cpu":
        return
    backbone = encoder.text.encoder
    if isinstance(backbone, GPT2Model):
        backbone.set_attn_implementation("eager")
    for block in encoder.vision.blocks:
        if isinstance(block, Block) and isinstance(block.attn, Attention):
            block.attn.fused_attn = False  # pyrefly: ignore[read-only] Final is a hint for TorchScript alone


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two AdamW groups: matrices decay; biases, norms, CLS, position and token embeddings, logits' scalars do not."""
    embeddings = ("cls_token", "pos_embed", "wte.weight", "wpe.weight")
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name.endswith(embeddings):
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
