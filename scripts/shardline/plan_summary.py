"""The figures of a plan: how much a training sees, in which shares, and how even its packs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shardline.arrangement import Arrangement
from shardline.pack_cost import pack_costs, predicted_imbalance
from shardline.plan_pool import Pool

LENGTH_BINS = 20


def figures(
    drawn: Mapping[str, np.ndarray], arranged: Arrangement, max_length: int
) -> dict[str, Any]:
    """Counts of steps, packs, samples and tokens, and how they are spread.

    Args:
        drawn: columns of the drawn samples, ordered by pack.
    """
    steps = arranged.steps
    totals = {
        name: int(drawn[name].sum(dtype=np.int64))
        for name in ("length", "supervised", "patches", "cut")
    }
    costs = pack_costs(drawn["length"], drawn["patches"], arranged.packs, len(steps))
    samples = drawn["shard"].astype(np.int64) << 32 | drawn["row"]
    return {
        "steps": int(steps[-1]) + 1,
        "packs": len(steps),
        "max_packs_per_step": int(np.bincount(steps).max()),
        "samples": len(samples),
        "distinct_samples": len(np.unique(samples)),
        "samples_per_step": _spread(np.bincount(steps[arranged.packs])),
        "tokens": totals["length"],
        "supervised_tokens": totals["supervised"],
        "patches": totals["patches"],
        "fill": round(totals["length"] / (len(steps) * max_length), 6),
        "predicted_imbalance": predicted_imbalance(costs, steps),
        "histogram": _histogram(drawn["length"]),
        "truncated": {
            "samples": int(np.count_nonzero(drawn["cut"])),
            "tokens": totals["cut"],
        },
    }


def _spread(counts: np.ndarray) -> dict[str, float]:
    return {
        "min": int(counts.min()),
        "mean": round(float(counts.mean()), 3),
        "max": int(counts.max()),
    }


def split(pools: Sequence[Pool], options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked to be held out, and of each dataset how many usable samples are."""
    if not (split := options.get("split")):
        return None
    held = {
        pool.dataset: len(pool.ids) if options.get("part") == "validation" else pool.held_out
        for pool in pools
    }
    return {**split, "held_out": held}


def shares(
    pools: Sequence[Pool], taken: Sequence[int], mixture: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of each dataset: percent asked for (or "#" and a number) and got, available and taken.

    The last two count samples, or given packs, of an epoch.
    """
    asked = {
        entry["dataset"]: f"#{entry['samples']}" if "samples" in entry else entry["percent"]
        for entry in mixture
    }
    return {
        pool.dataset: {
            "asked": asked[pool.dataset],
            "got": round(100 * count / len(pool.units), 4) if pool.units else 0.0,
            "available": len(pool.units),
            "taken": count,
        }
        for pool, count in zip(pools, taken, strict=True)
    }


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Tokens of the drawn samples: ``counts[i]`` have ``edges[i]`` < tokens <= ``edges[i + 1]``."""
    edges = np.unique(np.linspace(0, lengths.max(), LENGTH_BINS + 1).astype(np.int64))
    places = np.searchsorted(edges, lengths, side="left") - 1
    return {
        "edges": edges.tolist(),
        "counts": np.bincount(places, minlength=len(edges) - 1).tolist(),
    }
