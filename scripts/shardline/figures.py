"""Figures that several filters report."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median_low


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Smallest, median (of two the lower) and largest value, to choose a limit by; None of none."""
    found = list(values)
    if not found:
        return {"min": None, "median": None, "max": None}
    return {"min": min(found), "median": median_low(found), "max": max(found)}
