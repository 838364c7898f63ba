"""On a Mac pretraining runs on the CPU, whatever GPU DeepSpeed would choose there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import zero
from vlm.errors import UserError

AS_A_MAC = """
import os
import torch
torch.backends.mps.is_available, torch.cuda.is_available = lambda: True, lambda: False
from pretrain import zero
print(os.environ["DS_ACCELERATOR"], zero.device())
"""


def test_deepspeed_takes_a_macs_cpu():
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", AS_A_MAC]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines()[-1:] == ["cpu cpu"], result.stderr


def test_its_gpu_is_refused(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)  # so that nothing is set up
    monkeypatch.setattr(zero.get_accelerator(), "device_name", lambda *_: "mps")
    with pytest.raises(UserError, match=r"DS_ACCELERATOR=mps: .* unset it"):
        zero.start_processes()
