"""What the config.json of a LeVLJEPA encoder tells of its weights' licence."""

from collections.abc import Mapping
from typing import Any

RELEASED = "cc-by-nc-4.0"  # of the published LeVLJEPA weights
FREE, UNKNOWN = "none of others", "not known: see where it came from"


def weights_licence(config: Mapping[str, Any]) -> str:
    """The licence as the hub spells it, or FREE, or UNKNOWN.

    Ours tell the pixel statistics, which the released config.json lacks, and under `training` what a run has started
    from: a licence stays with the weights that are trained further.
    """
    if "normalization" not in config:
        return RELEASED
    training = config.get("training")
    if not isinstance(training, dict) or not training.get("init"):
        return FREE
    return str(training.get("init_licence", UNKNOWN))
