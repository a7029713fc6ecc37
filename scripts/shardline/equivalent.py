"""Steps of one batch size in terms of another: what a published learning rate would become."""

from __future__ import annotations

from math import sqrt
from typing import Any


def equivalent(samples: int, steps: int, reference_samples: int) -> dict[str, Any]:
    """A plan seen from the batch that its learning rate was published for.

    Args:
        samples: that the plan draws in its ``steps``.
        reference_samples: of one update of the published set-up.

    Returns:
        ``updates``: how many of the reference's see as many samples. ``learning_rate_factor``: by
        what a published rate is multiplied, in proportion to the batch (Goyal et al. 2017, for SGD)
        and by its square root (as is usual for Adam).
    """
    ratio = samples / steps / reference_samples
    return {
        "reference_samples": reference_samples,
        "samples_per_step": round(samples / steps, 3),
        "updates": round(samples / reference_samples, 3),
        "learning_rate_factor": {"linear": round(ratio, 4), "square_root": round(sqrt(ratio), 4)},
    }
