"""Which dtype --precision names."""

from types import SimpleNamespace

import pytest
import torch

from vlm.apps.asking import StringPrompts
from vlm.apps.loading import open_vlm
from vlm.errors import UserError
from vlm.llms.precision import check_place, chosen_dtype


@pytest.mark.parametrize("fast", [True, False])
def test_a_named_precision_is_taken_and_none_is_what_the_device_is_fast_at(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    assert chosen_dtype("fp32", "cpu") == torch.float32
    assert chosen_dtype("bf16", "cpu") == torch.bfloat16
    assert chosen_dtype(None, "cpu") == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize(
    ("gpu", "load_in", "name", "refused"),
    [
        (True, "4bit", "cpu", True), (False, "4bit", "cpu", False), (True, "8bit", "cuda", False),
        (True, None, "cpu", False), (True, "4bit", None, False), (False, "8bit", "mps", True),
    ],
)  # fmt: skip
def test_a_quantised_model_is_asked_for_where_it_can_be(monkeypatch, gpu, load_in, name, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    device = torch.device(name or ("cuda" if gpu else "cpu"))
    if not refused:
        assert check_place(load_in, name, device) is None
        return
    message = f"--load-in puts the model on the {'GPU' if gpu else 'CPU'}: leave out --device {name}, or --load-in"
    with pytest.raises(UserError, match=message):
        check_place(load_in, name, device)


@pytest.mark.parametrize("way", ["vlm chat, web", "lmms-eval"])
def test_every_way_in_asks_before_it_loads(monkeypatch, tmp_path, way):
    """On a machine with a GPU, `--device cpu --load-in 4bit` would be answered by the GPU in silence."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="--load-in puts the model on the GPU: leave out --device cpu, or --load-in"):
        if way == "lmms-eval":
            StringPrompts(str(tmp_path), "cpu", None, "4bit")
        else:
            open_vlm(SimpleNamespace(folder=str(tmp_path), device="cpu", precision=None, load_in="4bit"))
