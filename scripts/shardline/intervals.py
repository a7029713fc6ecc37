"""Confidence intervals of shares."""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson(hits: int, n: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of ``hits`` out of ``n``; (0, 1) where nothing was tried.

    Unlike the textbook interval it stays within 0-1 and has a width at 0 % and 100 %
    (Wilson 1927, JASA 22:209-212).

    Raises:
        ValueError: not 0 <= hits <= n.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits out of {n}")
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high
