"""Learning rate over the steps, as a factor of each module's peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from shardline.errors import ConfigError

SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}
"""Factor after the warm-up, from the share of the remaining steps that is done."""


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of linear warm-up: ``warmup`` is a share of all steps if below 1, else a number.

    Raises:
        ConfigError: negative, or no step would be left after it.
    """
    count = round(warmup * steps) if 0 <= warmup < 1 else warmup
    if count != int(count) or count < 0:
        raise ConfigError(f"schedule.warmup: {warmup} is neither a share below 1 nor whole steps")
    if count >= steps:
        raise ConfigError(
            f"schedule.warmup: {warmup} is {int(count)} steps of warm-up, but the plan has "
            f"{steps} steps: the learning rate would never reach its value"
        )
    return int(count)


def learning_rate_factor(schedule: Mapping[str, Any], steps: int) -> Callable[[int], float]:
    """The factor of 0-based step ``i``.

    Warm-up rises linearly and is above 0 from the first step; the first step after it has the
    factor 1, and the shape would reach 0 one step after the last.

    Raises:
        ConfigError: an unknown name, or a warm-up that does not fit.
    """
    if schedule["name"] not in SHAPES:
        raise ConfigError(
            f"schedule.name: {schedule['name']!r} is not one of {', '.join(sorted(SHAPES))}"
        )
    shape = SHAPES[schedule["name"]]
    warmup = warmup_steps(schedule.get("warmup", 0), steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return shape(min(1.0, (step - warmup) / (steps - warmup)))

    return factor
