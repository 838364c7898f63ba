"""LeVLM's library: encoders on disk, their assembly into a stock LLaVA, and chat.

m = vlm.load("RUN/vlm"); m.answer(image, "What is left of the red cube?"); m.model, m.processor
e = vlm.load_encoder("RUN/encoder"); e.patch_tokens(e.transform(image)[None])
m = vlm.assemble(e, load_llm("smollm2"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.assemble import assemble
    from vlm.encoder import load_encoder
    from vlm.model import load

__all__ = ["assemble", "load", "load_encoder"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `vlm --help` must not wait for them.
    if name == "assemble":
        return importlib.import_module("vlm.assemble")  # a callable module
    if name == "load":
        return importlib.import_module("vlm.model").load
    if name == "load_encoder":
        return importlib.import_module("vlm.encoder").load_encoder
    raise AttributeError(f"module 'vlm' has no attribute {name!r}")
