"""Packing all samples of an epoch at once: a million lengths in seconds.

Best fit decreasing needs at most 11/9 of the fewest packs possible, whatever the lengths are.
Lengths are small whole numbers, so packs with the same free space are interchangeable: whole runs
of equal lengths go into whole groups of such packs at once. `exact_fill` is better on most real
lengths; taken is what needs fewer packs.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from shardline.exact_packing import exact_fill


def pack_all(
    lengths: np.ndarray,
    capacity: int,
    patches: np.ndarray | None = None,
    max_patches: int | None = None,
) -> np.ndarray:
    """The pack of each sample, int64 [n], counted from 0: as few packs as any way here gives.

    Args:
        lengths: int [n], tokens, each from 1 to ``capacity``, in an order by lot.
        patches: int [n], of the vision tower, each at most ``max_patches``.
        max_patches: of a pack; None for any number.
    """
    ways = [exact_fill(lengths, capacity), best_fit_counted(lengths, capacity)]
    if max_patches is not None and patches is not None:
        ways = [_within(packs, lengths, patches, capacity, max_patches) for packs in ways]
        ways.append(best_fit_capped(lengths, patches, capacity, max_patches))
    return min(ways, key=lambda packs: packs.max())


def _within(
    packs: np.ndarray, lengths: np.ndarray, patches: np.ndarray, capacity: int, max_patches: int
) -> np.ndarray:
    """The packs that keep the patch budget; the samples of the others are packed anew."""
    over = (np.bincount(packs, weights=patches) > max_patches)[packs]
    if not over.any():
        return packs
    kept, numbers = np.unique(packs[~over], return_inverse=True)
    found = np.empty_like(packs)
    found[~over] = numbers
    found[over] = len(kept) + best_fit_capped(lengths[over], patches[over], capacity, max_patches)
    return found


def best_fit_counted(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Best fit decreasing; samples of one length are taken in their order."""
    order = np.argsort(-lengths, kind="stable")
    sizes, firsts, counts = np.unique(-lengths[order], return_index=True, return_counts=True)
    packs = np.empty(len(lengths), dtype=np.int64)
    free: dict[int, np.ndarray] = {}  # packs by their free tokens
    spaces = 0  # bit ``s`` is set where ``free`` has packs with ``s`` free tokens
    opened = 0
    for size, first, count in zip((-sizes).tolist(), firsts.tolist(), counts.tolist(), strict=True):
        done = first
        end = first + count
        while done < end:
            large_enough = spaces >> size
            if large_enough:
                space = size + (large_enough & -large_enough).bit_length() - 1
                packs_there = free.pop(space)
                spaces ^= 1 << space
            else:
                space = capacity
                number = -(-(end - done) // (capacity // size))
                packs_there = np.arange(opened, opened + number)
                opened += number
            fitting = (
                space // size
            )  # as many as the tightest pack takes before it is another's turn
            full, rest = divmod(min(end - done, len(packs_there) * fitting), fitting)
            placed = np.repeat(packs_there[:full], fitting)
            groups = [(space - fitting * size, packs_there[:full])]
            if rest:
                placed = np.concatenate([placed, np.repeat(packs_there[full], rest)])
                groups.append((space - rest * size, packs_there[full : full + 1]))
            groups.append((space, packs_there[full + (rest > 0) :]))
            packs[order[done : done + len(placed)]] = placed
            done += len(placed)
            for left, members in groups:
                if left and len(members):
                    free[left] = np.concatenate([free[left], members]) if left in free else members
                    spaces |= 1 << left
    return packs


def best_fit_capped(
    lengths: np.ndarray, patches: np.ndarray, capacity: int, max_patches: int
) -> np.ndarray:
    """Best fit by tokens among the packs that have room for the patches too.

    The samples that take the largest share of either budget come first.
    """
    share = np.maximum(lengths / capacity, patches / max_patches)
    order = np.lexsort((-patches, -lengths, -share))
    leaves = 1 << capacity.bit_length()
    # A tree over the free tokens: the most free patches of any pack below a node, -1 for no pack.
    most = [-1] * (2 * leaves)
    free: list[list[tuple[int, int]]] = [[] for _ in range(capacity + 1)]
    packs = np.empty(len(lengths), dtype=np.int64)
    opened = 0
    items = zip(order.tolist(), lengths[order].tolist(), patches[order].tolist(), strict=True)
    for item, length, wanted in items:
        space = _first_space(most, leaves, length, wanted)
        if space < 0:
            space, room, pack = capacity, max_patches, opened
            opened += 1
        else:
            room, pack = free[space].pop(bisect_left(free[space], (wanted, -1)))
            _update(most, leaves, space, free[space])
        packs[item] = pack
        left = space - length
        if left:
            insort(free[left], (room - wanted, pack))
            _update(most, leaves, left, free[left])
    return packs


def _first_space(most: list[int], leaves: int, least: int, wanted: int) -> int:
    """The smallest free space from ``least`` on of a pack with ``wanted`` free patches, else -1."""
    node = leaves + least
    while most[node] < wanted:
        while node & 1:  # a right child: what follows begins above it
            node >>= 1
        if not node:
            return -1
        node += 1
    while node < leaves:
        node *= 2
        if most[node] < wanted:
            node += 1
    return node - leaves


def _update(most: list[int], leaves: int, space: int, packs: list[tuple[int, int]]) -> None:
    node = leaves + space
    value = packs[-1][0] if packs else -1
    while node and most[node] != value:
        most[node] = value
        sibling = most[node ^ 1] if node > 1 else -1
        value = max(value, sibling)
        node >>= 1
