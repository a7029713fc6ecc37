"""Which samples of a mixture make up which pack of which step, in each way of packing.

Either the samples of a step are drawn first and its packs are made of them (``global_batch:
{samples: N}``), or the samples of an epoch are packed and a step is a number of packs
(``{tokens: N}``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from shardline.errors import ConfigError
from shardline.global_packing import pack_all
from shardline.mixture import draw, permutation, redraw
from shardline.pack_cost import SIDE_BY_SIDE, balanced_order, order_in_steps, pack_costs
from shardline.packing import pack_steps

PACKINGS = {
    "samples": ("step", "flatten", "none"),
    "tokens": ("global", "given"),
}
"""The ways of packing for each unit of the global batch, the default first."""


class Arrangement(NamedTuple):
    """A training's order.

    ``order`` int64 [n]: places in the mixture, pack by pack; ``packs`` int64 [n]: the pack of each
    of them, from 0; ``steps`` int64 [packs]: the step of each pack, rising.
    """

    order: np.ndarray
    packs: np.ndarray
    steps: np.ndarray


def packing_of(options: Mapping[str, Any]) -> str:
    """A stage's way of packing.

    Raises:
        ConfigError: the unit of its global batch does not allow it.
    """
    unit = _unit(options["global_batch"])
    packing = options.get("packing") or PACKINGS[unit][0]
    if packing not in PACKINGS[unit]:
        raise ConfigError(
            f"packing = {packing!r} with a global_batch of {unit}; "
            f"allowed: {', '.join(PACKINGS[unit])}"
        )
    if unit == "tokens" and options["global_batch"]["tokens"] < options["max_length"]:
        raise ConfigError(
            f"global_batch.tokens = {options['global_batch']['tokens']}; allowed: at least "
            f"max_length = {options['max_length']}, since a step has whole packs"
        )
    return packing


def _unit(batch: Mapping[str, Any]) -> str:
    return "tokens" if batch.get("tokens") else "samples"


def arrange(
    lengths: np.ndarray,
    patches: np.ndarray,
    options: Mapping[str, Any],
    given: np.ndarray | None = None,
) -> Arrangement:
    """Draw and pack a stage.

    Args:
        lengths, patches: int [n] of the mixture's samples, at least one, each within the budgets.
        options: ``packing``, ``global_batch``, ``steps`` or ``epochs``, ``epoch_draws``,
            ``max_length``, ``max_patches``, ``length_grouped``, ``seed``.
        given: int64 [n], rising: the pack that a user put each sample in; for ``packing: given``.

    Raises:
        ConfigError: the options contradict each other.
    """
    if (options["steps"] is None) == (options["epochs"] is None):
        raise ConfigError("a stage has either `steps` or `epochs`")
    packing = packing_of(options)
    if packing in PACKINGS["tokens"]:
        return _packs_first(lengths, patches, options, given if packing == "given" else None)
    return _samples_first(lengths, patches, options, packing)


def _samples_first(
    lengths: np.ndarray, patches: np.ndarray, options: Mapping[str, Any], packing: str
) -> Arrangement:
    batch = options["global_batch"]["samples"]
    size = options.get("epoch_draws") or len(lengths)
    total = options["steps"] * batch if options["steps"] else round(options["epochs"] * size)
    total = max(1, total)
    if options.get("epoch_draws"):
        epochs = range(-(-total // size))
        parts = [redraw(len(lengths), size, options["seed"], epoch) for epoch in epochs]
        order = np.concatenate(parts)[:total]
    else:
        order = draw(size, total, options["seed"])
    if packing == "step":
        max_patches = options.get("max_patches")
        within, packs, steps = pack_steps(
            lengths[order], batch, options["max_length"], patches[order], max_patches
        )
        return Arrangement(order[within], packs, steps)
    steps = np.arange(total, dtype=np.int64) // batch
    if options.get("length_grouped"):
        order = order[np.lexsort((np.arange(total), -lengths[order], steps))]
    return Arrangement(order, np.arange(total, dtype=np.int64), steps)


def _packs_first(
    lengths: np.ndarray,
    patches: np.ndarray,
    options: Mapping[str, Any],
    given: np.ndarray | None,
) -> Arrangement:
    step_packs = options["global_batch"]["tokens"] // options["max_length"]
    side_by_side = min(SIDE_BY_SIDE, step_packs)
    wanted = options["steps"] * step_packs if options["steps"] else None
    orders, places, total, epoch = [], [], 0, 0
    while total < wanted if wanted else epoch < options["epochs"]:
        order, packs = _epoch(lengths, patches, options, given, epoch)
        count = int(packs.max()) + 1
        costs = pack_costs(lengths[order], patches[order], packs, count)
        place = np.empty(count, dtype=np.int64)
        place[balanced_order(costs, side_by_side, total, options["seed"], epoch)] = np.arange(count)
        if wanted:
            kept = min(count, wanted - total)
        else:
            kept = max(1, math.floor(count * min(1, options["epochs"] - epoch) + 0.5))
        inside = place[packs] < kept
        orders.append(order[inside])
        places.append(place[packs[inside]] + total)
        total += kept
        epoch += 1
    order, packs = np.concatenate(orders), np.concatenate(places)
    steps = np.arange(total, dtype=np.int64) // step_packs
    costs = pack_costs(lengths[order], patches[order], packs, total)
    place = np.empty(total, dtype=np.int64)
    place[order_in_steps(costs, steps, side_by_side)] = np.arange(total)
    packs = place[packs]
    by_pack = np.argsort(packs, kind="stable")
    return Arrangement(order[by_pack], packs[by_pack], steps)


def _epoch(
    lengths: np.ndarray,
    patches: np.ndarray,
    options: Mapping[str, Any],
    given: np.ndarray | None,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of an epoch and the pack of each, the longest samples of a pack first."""
    if given is not None:
        return np.arange(len(lengths)), given
    seed, draws = options["seed"], options.get("epoch_draws")
    if draws:
        order = redraw(len(lengths), draws, seed, epoch)
    else:
        order = permutation(len(lengths), seed, epoch)
    order = order[np.argsort(-lengths[order], kind="stable")]
    budgets = options["max_length"], patches[order], options.get("max_patches")
    return order, pack_all(lengths[order], *budgets)


def split_given(
    lengths: np.ndarray,
    patches: np.ndarray,
    given: np.ndarray,
    max_length: int,
    max_patches: int | None,
) -> np.ndarray:
    """Given packs cut, in their order, where the next sample would go over a budget.

    Args:
        given: int64 [n], the samples of a pack side by side.

    Returns:
        int64 [n], rising from 0: the pack of each sample.
    """
    packs = np.empty(len(given), dtype=np.int64)
    pack, last, tokens, seen = -1, None, 0, 0
    columns = zip(lengths.tolist(), patches.tolist(), given.tolist(), strict=True)
    for place, (length, number, own) in enumerate(columns):
        tokens, seen = tokens + length, seen + number
        over = tokens > max_length or (max_patches is not None and seen > max_patches)
        if own != last or over:
            pack, last, tokens, seen = pack + 1, own, length, number
        packs[place] = pack
    return packs
