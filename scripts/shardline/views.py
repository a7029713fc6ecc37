"""Views of one object: which samples show which, and the best of them.

Samples of one ``group`` show one object. A view is what a sample shows: two rows about the same
files are one view, and two files with equal bytes are two.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shardline.samples import Sample, Samples

EXAMPLES = 20  # vanished groups that are named


@dataclass(frozen=True, kw_only=True)
class View:
    """One view: its files, its number (``meta.view``) if it has one, its samples, its score.

    ``score`` is the mean over its images, None for a view without images.
    """

    paths: tuple[str, ...]
    number: int | None
    samples: list[str]
    score: float | None


def views_by_group(samples: Iterable[Sample], scores: Mapping[str, float]) -> dict[str, list[View]]:
    """The views of each group, groups and views in the order of the samples.

    Args:
        samples: those without a group are passed over.
        scores: of every image in them, by sha256.
    """
    groups: dict[str, dict[tuple[str, ...], View]] = defaultdict(dict)
    for sample in samples:
        if not sample.group:
            continue
        paths = tuple(medium.path for medium in sample.media)
        views = groups[sample.group]
        if paths not in views:
            values = [scores[medium.sha256] for medium in sample.media if medium.kind == "image"]
            views[paths] = View(
                paths=paths,
                number=_number(sample.meta.get("view")),
                samples=[],
                score=math.fsum(values) / len(values) if values else None,
            )
        views[paths].samples.append(sample.id)
    return {group: list(views.values()) for group, views in groups.items()}


def best_view(views: list[View]) -> View:
    """The view of the highest score.

    Of equal ones it is that of the lowest number, then the first in the dataset's order. A view
    without a number comes after those with one, a view without a score after all that have one.
    """

    def rank(view: View) -> tuple[float, float]:
        return (
            math.inf if view.score is None else -view.score,
            math.inf if view.number is None else view.number,
        )

    return min(views, key=rank)


def group_counts(samples: Samples, reasons: Mapping[str, str]) -> dict[str, Any]:
    """How many groups went into a chain of filters, and of which nothing was kept.

    Args:
        samples: all that went in.
        reasons: why a sample was rejected, by id; a kept one is not there.

    Returns:
        ``in``, ``kept``, ``vanished`` and ``examples``: the first of the vanished, each with its
        counts by reason.
    """
    kept: dict[str, bool] = {}
    for sample in samples:
        if sample.group:
            kept[sample.group] = kept.get(sample.group, False) or sample.id not in reasons
    vanished = [group for group, is_kept in kept.items() if not is_kept]
    examples: dict[str, Counter[str]] = {group: Counter() for group in vanished[:EXAMPLES]}
    for sample in samples if vanished else ():
        if sample.group in examples:
            examples[sample.group][reasons[sample.id]] += 1
    return {
        "in": len(kept),
        "kept": len(kept) - len(vanished),
        "vanished": len(vanished),
        "examples": [
            {"group": group, "reasons": dict(sorted(counts.items()))}
            for group, counts in examples.items()
        ],
    }


def _number(value: Any) -> int | None:
    """A view's number, which sources have as 7 or as "007"."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return value if type(value) is int else None
