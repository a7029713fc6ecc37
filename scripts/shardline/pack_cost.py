"""What a pack costs a training step, and an order in which packs side by side cost the same.

The cost is counted in tokens' worth of a forward and backward, as ``PACK + tokens +
PAIR * sum(length ** 2) + PATCH * patches``. The coefficients are floating point operations of
Qwen2-VL-2B with all of it trained, relative to the 6 * 1.54e9 of a token (embedding included): a
token sees half of its sample in each of 28 layers 1536 wide (6 * 2 * 28 * 1536 / 2 for a token of
the sample), a patch goes through 32 layers 1280 wide (6 * 12 * 1280 ** 2 * 32). What they are for
is order, not time: on a larger language model pictures weigh less, which leaves packs of alike
cost alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shardline.mixture import permutation

PACK = 64.0
PAIR = 2.8e-5
PATCH = 0.41
SIDE_BY_SIDE = 8
"""Packs in a row that cost about the same: the ranks of a node."""
RANKS = (2, 4, 8)  # for which the imbalance is predicted


def pack_costs(
    lengths: np.ndarray, patches: np.ndarray, packs: np.ndarray, count: int
) -> np.ndarray:
    """Cost of each of ``count`` packs, float64, from the samples' tokens, patches and packs."""
    own = lengths + PAIR * lengths.astype(np.float64) ** 2 + PATCH * patches
    return PACK + np.bincount(packs, weights=own, minlength=count)


def balanced_order(
    costs: np.ndarray, side_by_side: int, start: int, seed: int, epoch: int
) -> np.ndarray:
    """The packs of an epoch in an order by lot in which groups of packs cost about the same.

    Args:
        side_by_side: packs a group.
        start: packs that earlier epochs have put before these: groups are cut from the first
            pack of the training on. What does not fill a group is of middling cost.

    Returns:
        int64 [packs], a permutation.
    """
    by_cost = np.argsort(costs, kind="stable")
    count = len(costs)
    head = min(-start % side_by_side, count)
    tail = (count - head) % side_by_side
    middle = (count - head - tail) // 2
    groups = np.delete(by_cost, slice(middle, middle + head + tail)).reshape(-1, side_by_side)
    groups = groups[permutation(len(groups), seed, epoch, "packs")]
    rest = by_cost[middle : middle + head + tail]
    return np.concatenate([rest[:head], groups.reshape(-1), rest[head:]])


def order_in_steps(costs: np.ndarray, steps: np.ndarray, side_by_side: int) -> np.ndarray:
    """The packs of each step from costly to cheap, every second group of them backwards.

    Over the groups of a step, a rank then has neither always the costliest nor the cheapest.

    Args:
        costs: float64 [packs]; ``steps``: int64 [packs], rising.

    Returns:
        int64 [packs], a permutation within steps.
    """
    order = np.lexsort((np.arange(len(costs)), -costs, steps))
    own = np.arange(len(costs))
    starts = np.searchsorted(steps, steps)
    group = (own - starts) // side_by_side
    first = starts + group * side_by_side
    last = np.minimum(first + side_by_side, np.searchsorted(steps, steps, side="right")) - 1
    backwards = (group % 2 == 1) & (last - first + 1 == side_by_side)
    return order[np.where(backwards, first + last - own, own)]


def imbalance(costs: np.ndarray, steps: np.ndarray, ranks: int) -> np.ndarray:
    """Of each step: the cost of its most loaded rank over the mean of all, float64 [steps].

    The packs of a step are dealt out in order, one a rank and round.
    """
    count = int(steps[-1]) + 1
    rank = (np.arange(len(steps)) - np.searchsorted(steps, steps)) % ranks
    loads = np.bincount(steps * ranks + rank, weights=costs, minlength=count * ranks)
    loads = loads.reshape(count, ranks)
    return loads.max(axis=1) / loads.mean(axis=1)


def predicted_imbalance(costs: np.ndarray, steps: np.ndarray) -> dict[str, dict[str, float]]:
    """Median and 99th percentile over the steps, by number of ranks."""
    found: dict[str, Any] = {}
    for ranks in RANKS:
        ratios = imbalance(costs, steps, ranks)
        found[str(ranks)] = {
            "p50": round(float(np.quantile(ratios, 0.5)), 4),
            "p99": round(float(np.quantile(ratios, 0.99)), 4),
        }
    return found
