"""Saving stock models without what saving would drag in."""

from collections.abc import Iterator
from contextlib import contextmanager

import accelerate.utils.other


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Save a model without importing deepspeed, which accelerate does only to ask whether the model is one of its
    engines: it takes seconds, and warns of an accelerator that nobody asked for.
    """
    module = accelerate.utils.other
    asked = module.is_deepspeed_available
    module.is_deepspeed_available = lambda: False
    try:
        yield
    finally:
        module.is_deepspeed_available = asked
