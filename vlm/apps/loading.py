"""Opens the VLM of a command as its flags say."""

import sys
from typing import Protocol

import torch

from vlm.apps.status import Status
from vlm.errors import UserError
from vlm.llava.model import VLM, load
from vlm.llms.precision import chosen_device, chosen_dtype


class Opening(Protocol):
    """The settings that say which VLM is opened, and how."""

    @property
    def folder(self) -> str: ...
    @property
    def device(self) -> str | None: ...
    @property
    def precision(self) -> str | None: ...
    @property
    def load_in(self) -> str | None: ...


def open_vlm(settings: Opening) -> VLM:
    """Load `settings.folder`, with a status while it takes long. Raises: UserError as `vlm.load`, or for the device."""
    device = chosen_device(settings.device)
    if settings.load_in and settings.device:
        if device.type != ("cuda" if torch.cuda.is_available() else "cpu"):
            raise UserError(f"--load-in puts the model on the GPU: leave out --device {settings.device}, or --load-in")
        if device.type == "cuda":
            torch.cuda.set_device(device)
    with Status(f"loading {settings.folder}") as status:
        dtype = chosen_dtype(settings.precision, device)
        vlm = load(settings.folder, device, dtype, settings.load_in)
    if sys.stderr.isatty():
        numbers = settings.load_in or str(dtype).removeprefix("torch.")
        print(f"{settings.folder}: {numbers} on {vlm.model.device}, {status.seconds():.1f} s", file=sys.stderr)
    return vlm
