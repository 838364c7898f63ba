"""What a bridge checkpoint holds: the trained weights and the optimizer's state."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vlm.distributed import is_main
from vlm.errors import UserError

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.pt"
Weights = Mapping[str, torch.nn.Parameter]


def writer(weights: Weights, optimizer: torch.optim.Optimizer) -> Callable[[Path], None]:
    """A function that fills the folder of a checkpoint. The first process alone writes: all of them hold the same."""

    def fill(partial: Path) -> None:
        if is_main():
            tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
            save_file(tensors, partial / WEIGHTS)
            torch.save(optimizer.state_dict(), partial / OPTIMIZER)

    return fill


def load(folder: Path, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Copy a checkpoint into the parameters and the optimizer; its files were verified before.

    Raises:
        UserError: it holds other weights than this run trains.
    """
    stored = load_file(folder / WEIGHTS)
    if stored.keys() != weights.keys():
        raise UserError(f"{folder} holds other weights than this run trains: give another --out")
    with torch.no_grad():
        for name, value in stored.items():
            weights[name].copy_(value)
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
