"""LeVLM's library. Its rooms: encoders, llms, llava (both as one model), apps (using it), cards, run (training).

m = vlm.load("RUN/vlm"); m.answer(image, "What is left of the red cube?"); m.model, m.processor
e = vlm.load_encoder("RUN/encoder"); e.patch_tokens(e.transform(image)[None])
m = vlm.assemble(e, load_llm("smollm2"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.encoders.levljepa import load_encoder
    from vlm.llava.assembly import assemble
    from vlm.llava.model import load

__all__ = ["assemble", "load", "load_encoder"]

_HOMES = {"assemble": "vlm.llava.assembly", "load": "vlm.llava.model", "load_encoder": "vlm.encoders.levljepa"}


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `vlm --help` must not wait for them.
    if name not in _HOMES:
        raise AttributeError(f"module 'vlm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
