"""Apple's GPUs have no float64: nothing that runs on the device makes one."""

from pathlib import Path

import torch
from tiny import pictures
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vlm
from bridge import gradients, loop
from bridge.data.example import Example
from bridge.evaluation.answering import Asker
from bridge.evaluation.batching import make_batches
from vlm.run.pca import principal_colours


class NoFloat64(TorchDispatchMode):
    """Fails where torch's MPS device does: at the first tensor of 64-bit floats."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {function}")
        return result


def within(function):
    def call(*arguments, **options):
        with NoFloat64():
            return function(*arguments, **options)

    return call


def test_training_chat_and_evaluation_make_no_float64(training, tiny_vlm, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "backward", within(gradients.backward))
    monkeypatch.setattr(loop, "update", within(gradients.update))
    training.run(tmp_path / "out", "--steps", "2")
    assert len(training.losses(tmp_path / "out")) == 2
    picture = pictures.noise(24, 24, seed=0)
    picture.save(tmp_path / "a.png")
    model = vlm.load(tiny_vlm)
    examples = [Example(str(number), Path(tmp_path / "a.png"), f"Is it {number}?", None) for number in range(3)]
    with NoFloat64():
        assert isinstance(model.answer(picture, "Is it red?", 3), str)
        [[answered]] = Asker(model, 3).answers(make_batches(examples, 8))
    assert len(answered.texts) == 3


def test_colours_of_patches_are_computed_off_the_device():
    class Elsewhere(torch.Tensor):
        """A tensor that must be moved before it is made float64."""

        moved = 0

        def cpu(self):
            Elsewhere.moved += 1
            return self.as_subclass(torch.Tensor)

        def double(self):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    tokens = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0)).as_subclass(Elsewhere)
    assert principal_colours(tokens)[0].shape == (9, 3)
    assert Elsewhere.moved == 1
