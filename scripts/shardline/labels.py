"""Labels: which tokens the loss sees."""

from __future__ import annotations

import numpy as np

IGNORED = -100  # the label that the loss of every HF model skips


def count_supervised(labels: np.ndarray) -> int:
    """Tokens that add to the loss: the first is predicted from nothing, so its label is not one."""
    return int(np.count_nonzero(labels[1:] != IGNORED))
