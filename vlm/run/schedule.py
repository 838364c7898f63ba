"""Learning rates as pure functions of the step."""

import math
import sys
from collections.abc import Mapping
from typing import Any

DECAY = 0.15  # share of the steps in which wsd decays


def warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup_steps at step 0 (never zero) to 1."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(step: int, steps: int, warmup_steps: int, peak: float, floor: float) -> float:
    """Linear warm-up, then half a cosine from `peak` at the end of warm-up to `floor` at the last step.

    A warm-up that leaves a single step ends in the peak.
    """
    done = max(0, step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    decayed = floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return decayed * warmup(step, warmup_steps)


def wsd(step: int, steps: int, warmup_steps: int, peak: float, floor: float) -> float:
    """Warm-up, stable, decay: `peak` until the last 15 % of the steps, then half a cosine to `floor`.

    Fewer than 10 steps have no decay: 15 % of them are one step or none.
    """
    start = round(steps * (1 - DECAY))
    return cosine(step - start, steps - start, 0, peak, floor) if step >= start else peak * warmup(step, warmup_steps)


SCHEDULES = {"cosine": cosine, "wsd": wsd}
RATE = ("schedule", "steps", "warmup_steps", "lr", "min_lr")  # the settings that a step's rate follows from


def same_past(step: int, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the first `step` steps have the same learning rates by the settings `old` and `new`.

    So it is as long as the warm-up or, of wsd, the stable phase lasts by both: a run may then go on to another number
    of steps, as if it had been started with that.
    """
    first, second = ([rate(number, settings) for number in range(step)] for settings in (old, new))
    return first == second


def rate(step: int, settings: Mapping[str, Any]) -> float:
    """The learning rate of a step by settings with the names of `RATE`."""
    schedule, steps, warmup_steps, peak, floor = (settings[name] for name in RATE)
    return SCHEDULES[schedule](step, steps, warmup_steps, peak, floor)


def longest_warmup(schedule: str, steps: int) -> int:
    """The most steps of warm-up after which the rate still reaches its peak, and falls from there without a jump.

    A run of no steps has no rate, so any warm-up will do.
    """
    if not steps:
        return sys.maxsize
    return round(steps * (1 - DECAY)) if schedule == "wsd" else steps - 1


def shortened_warmup(schedule: str, steps: int, warmup_steps: int) -> int:
    """A preset's warm-up as it is, or a tenth of the steps if the run is too short for it."""
    return warmup_steps if warmup_steps <= longest_warmup(schedule, steps) else steps // 10
