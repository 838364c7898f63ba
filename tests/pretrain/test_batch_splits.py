"""A step gives the same loss and gradients for every micro-batch size and number of ranks, with every objective."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from tiny.encoders import encoder_config

from pretrain.batchnorm import GlobalBatchNorm1d
from pretrain.config import OBJECTIVES, from_preset
from pretrain.contrastive import LogitScale
from pretrain.model import Pretrainer
from pretrain.objective import objective
from vlm.encoders.levljepa import new_encoder


def step(name, batch, rows=slice(None), micro_batch_size=0):
    """One forward and backward pass over these rows of a batch, in float64: loss, gradients and buffers by name."""
    predicts = {"directions": 32} if name.startswith("levljepa") else {}
    config = from_preset("tiny", objective=name, **predicts)
    sizes = encoder_config(
        patch_size=4, vision_layers=2, text_layers=2, text_heads=2, vocab_size=50, positions=12, projector_width=24,
        projector_depth=min(2, config.projector_depth),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    sizes_of_views = [(2, 16), (4, 8)] if name == "levljepa-plus" else [(1, 16)]
    images = [
        torch.randn(batch, views, 3, side, side, generator=generator, dtype=torch.float64)
        for views, side in sizes_of_views
    ]
    pixels = [part[rows] for part in images] if len(images) > 1 else images[0][rows, 0]
    ids = torch.randint(0, 50, (batch, 12), generator=generator)
    lengths = torch.randint(1, 13, (batch,), generator=generator)
    logit_scale = LogitScale(name) if name in ("clip", "siglip") else None
    encoder = new_encoder(sizes, seed=0, norm=GlobalBatchNorm1d)
    model = Pretrainer(encoder, micro_batch_size, logit_scale=logit_scale).double()
    loss, _ = objective(config)(model(pixels, ids[rows], lengths[rows]), step=0)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), gradients, dict(model.named_buffers())


def assert_equal(got, expected):
    """The same loss, gradients and BatchNorm statistics. CLS starts near 0, where its LayerNorm magnifies rounding."""
    assert got[0].item() == pytest.approx(expected[0].item(), rel=1e-12)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(got[1][name], gradient, rtol=0, atol=1e-8, msg=name)
    for name, buffer in expected[2].items():
        torch.testing.assert_close(got[2][name], buffer, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_batch_of_64_equals_four_of_16(name):
    whole = step(name, 64)
    assert min(gradient.abs().max() for gradient in whole[1].values() if gradient is not None) > 0
    assert_equal(step(name, 64, micro_batch_size=16), whole)


def ceiling_gradients(rank):
    """The scale's gradient above the ceiling, where the ranks' own gradients have different signs."""
    found = []
    for by_rank in ((3.0, -1.0), (-3.0, 1.0)):
        logit_scale = LogitScale("clip")
        logit_scale.scale.data.fill_(5.0)
        (logit_scale()[0] * by_rank[rank]).backward()
        found.append(logit_scale.scale.grad.item())
    return found


def run_rank(rank, folder):
    """Half the batch on each of two ranks: the losses and the gradients averaged as DeepSpeed averages them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name in OBJECTIVES:
        loss, gradients, buffers = step(name, 16, slice(rank * 8, rank * 8 + 8))
        values = [loss, *gradients.values()]
        means = torch.cat([value.flatten() for value in values]) / 2
        dist.all_reduce(means)
        for value, mean in zip(values, means.split([value.numel() for value in values])):
            value.copy_(mean.view_as(value))
        results[name] = loss, gradients, buffers
    torch.save((results, ceiling_gradients(rank)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    # by path: pytest's importlib mode leaves this module without a name that a spawned process could import
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # so that it finds `tiny`
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=path) for rank in range(2)]
    assert [process.wait(timeout=240) for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in OBJECTIVES:
        expected = step(name, 16)
        for results, _ in found:
            assert_equal(results[name], expected)
    for _, above_ceiling in found:
        assert above_ceiling == pytest.approx([100.0, 0.0])  # of the mean 1, and of the mean -1


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
