"""SIGReg's directions, drawn ahead of the step that needs them."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pretrain.sigreg import random_directions

Key = tuple[int, str | int]  # step, modality


class DirectionsAhead:
    """`random_directions` for a caller that asks for step after step: those of the next step are drawn on a thread.

    They are a function of seed, step and modality alone, so that a thread draws the same numbers. On a GPU they are
    also copied there by it, behind what the device is busy with.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="directions")
        self._drawn: dict[Key, Future[torch.Tensor]] = {}

    def __call__(
        self, dim: int, count: int, seed: int, step: int, modality: str | int, device: torch.device
    ) -> torch.Tensor:
        """float32[dim, count] of this step and modality; every call has the same dim, count, seed and device."""

        def draw(of_step: int) -> torch.Tensor:
            return random_directions(dim, count, seed, of_step, modality, device)

        drawn = self._drawn.pop((step, modality), None)
        directions = drawn.result() if drawn else draw(step)
        self._drawn[step + 1, modality] = self._thread.submit(draw, step + 1)
        return directions
