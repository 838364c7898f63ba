"""Opens the VLM of a command as its flags say."""

import sys
from typing import Protocol

from vlm.apps.status import Status
from vlm.llava.model import VLM, load
from vlm.llms.precision import check_place, chosen_device, chosen_dtype


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
    check_place(settings.load_in, settings.device, device)
    with Status(f"loading {settings.folder}") as status:
        dtype = chosen_dtype(settings.precision, device)
        vlm = load(settings.folder, device, dtype, settings.load_in)
    if sys.stderr.isatty():
        numbers = settings.load_in or str(dtype).removeprefix("torch.")
        print(f"{settings.folder}: {numbers} on {vlm.model.device}, {status.seconds():.1f} s", file=sys.stderr)
    return vlm
