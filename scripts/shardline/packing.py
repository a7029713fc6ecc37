"""Samples to packs: rows of training tokens that are as full as they can be."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from shardline.global_packing import best_fit_capped


def best_fit(lengths: Sequence[int], capacity: int) -> list[int]:
    """The pack of each item: the fullest one it still fits in, else a new one.

    Given the longest first, this is best fit decreasing: at most 11/9 of the fewest packs possible,
    and one more. Items longer than ``capacity`` are the caller's error.
    """
    stride = len(lengths)
    free: list[int] = []  # remaining * stride + pack, sorted
    packs: list[int] = []
    opened = 0
    for length in lengths:
        place = bisect_left(free, length * stride)
        if place < len(free):
            remaining, pack = divmod(free.pop(place), stride)
        else:
            remaining, pack = capacity, opened
            opened += 1
        packs.append(pack)
        insort(free, (remaining - length) * stride + pack)
    return packs


def pack_steps(
    lengths: np.ndarray,
    step_samples: int,
    capacity: int,
    patches: np.ndarray | None = None,
    max_patches: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut drawn samples into steps, then pack each step for itself.

    Args:
        lengths: int [n], tokens of each sample in the order drawn, none over ``capacity``.
        step_samples: samples a step; the last step has what is left.
        patches: int [n], of the vision tower, none over ``max_patches``.
        max_patches: of a pack; None for any number.

    Returns:
        ``order`` int64 [n]: the drawn samples pack by pack; ``packs`` int64 [n]: the pack of each
        of them, counted over all steps; ``steps`` int64 [packs]: the step of each pack.
    """
    count = len(lengths)
    step_of = np.arange(count, dtype=np.int64) // step_samples
    by_length = np.lexsort((np.arange(count), -lengths, step_of))
    packs = np.empty(count, dtype=np.int64)
    steps: list[int] = []
    for step, start in enumerate(range(0, count, step_samples)):
        part = by_length[start : start + step_samples]
        if patches is None or max_patches is None:
            within = np.array(best_fit(lengths[part].tolist(), capacity))
        else:
            within = best_fit_capped(lengths[part], patches[part], capacity, max_patches)
        packs[start : start + len(within)] = within + len(steps)
        steps += [step] * (int(within.max()) + 1)
    by_pack = np.argsort(packs, kind="stable")
    return by_length[by_pack], packs[by_pack], np.array(steps, dtype=np.int64)
