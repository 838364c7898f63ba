"""Which dtype --precision names."""

import pytest
import torch

from vlm.llms.precision import chosen_dtype


@pytest.mark.parametrize("fast", [True, False])
def test_a_named_precision_is_taken_and_none_is_what_the_device_is_fast_at(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    assert chosen_dtype("fp32", "cpu") == torch.float32
    assert chosen_dtype("bf16", "cpu") == torch.bfloat16
    assert chosen_dtype(None, "cpu") == (torch.bfloat16 if fast else torch.float32)
