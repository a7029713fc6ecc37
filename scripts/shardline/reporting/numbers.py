"""Figures as text, the same on the page and on the model card."""

from __future__ import annotations

MISSING = "–"


def count(value: int | None) -> str:
    """``12,345``; a dash for None."""
    return MISSING if value is None else f"{value:,}"


def plural(value: int | None, one: str, many: str | None = None) -> str:
    """``1 step``, ``2 steps``; ``many`` where an s is not enough."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def per_cent(fraction: float | None) -> str:
    """A fraction as per cent with one decimal."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def size(value: int | None) -> str:
    """Bytes in the unit (of powers of 1000) that gives one to three digits before the point."""
    if value is None:
        return MISSING
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"


def seconds(value: float | None) -> str:
    """Seconds with one decimal below a hundred, whole above."""
    return MISSING if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
