"""The first packs of a plan as bars: which samples lie side by side, where a step ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardline.plan_file import Plan
from shardline.reporting.numbers import per_cent, plural

PACKS = 12
HOW = {
    "flatten": "A pack is one sample; a forward has several packs side by side, which do not see "
    "each other.",
    "none": "A pack is one sample; those of a forward are padded to the longest of them.",
    "given": "A pack is what the source put together, up to {:,} tokens; its samples do not see "
    "each other.",
}
PACKED = "A pack is one row of up to {:,} tokens; its samples do not see each other."


@dataclass
class Pack:
    """One pack: ``share`` of the bar's length, in per cent, of each of its samples."""

    step: int
    tokens: int
    size: str
    parts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class FirstPacks:
    """The first packs; ``how`` they are made, and how many ``more`` there are."""

    how: str
    more: str
    packs: list[Pack]


def first_packs(plan: Plan, numbers: Mapping[tuple[int, int], int]) -> FirstPacks:
    """The first packs of a plan.

    Args:
        numbers: of the samples on the page, by shard and row.
    """
    packing, most = plan.summary["packing"], plan.summary["max_length"]
    alone = packing in ("flatten", "none")
    shown = min(PACKS, len(plan.tokens))
    capacity = int(plan.tokens[:shown].max()) if alone else most
    steps = np.searchsorted(plan.step_starts, np.arange(shown), side="right")
    found = []
    for number, step in enumerate(steps.tolist()):
        tokens = int(plan.tokens[number])
        parts = [
            {
                "share": round(100 * place.length / capacity, 3),
                "tokens": place.length,
                "number": numbers.get(place[:2]),
                "place": f"{plan.summary['shards'][place.shard]['path']}, row {place.row}",
            }
            for place in plan.samples(number)
        ]
        size = plural(tokens, "token") + ("" if alone else f", {per_cent(tokens / capacity)}")
        found.append(Pack(step, tokens, size, parts))
    return FirstPacks(HOW.get(packing, PACKED).format(most), _more(plan, shown), found)


def _more(plan: Plan, shown: int) -> str:
    """What follows the packs that are shown."""
    if shown == len(plan.tokens):
        return ""
    step = int(np.searchsorted(plan.step_starts, shown - 1, side="right"))
    rest = int(plan.step_starts[step]) - shown
    later = plan.steps - step
    texts = [
        *([f"{plural(rest, 'more pack')} of step {step}"] if rest else []),
        *([plural(later, "more step")] if later else []),
    ]
    return "and " + " and ".join(texts)
