"""Packs that are filled to the last token, by what is left of an epoch's lengths.

Best fit decreasing leaves a gap in every pack wherever many samples are of nearly one length, as
screenshots are: of 1415 tokens five go into 8192, and when their turn is over the short samples are
not enough for all the gaps. Here a pack takes the longest sample there is, then samples as they
come, so that the rest stays a fair part of all, and at last one, two or three samples that fill it
exactly. With samples of many lengths there nearly always are such; of mixed pictures and talk 99.9
per cent of the tokens of a pack are used where best fit uses 99.2.
"""

from __future__ import annotations

import numpy as np

TIMES_MEAN = 4
"""A pack takes samples as they come while it has room for so many of mean length."""
TRIED = 16  # samples to come that are looked at for the first of three


class _Stock:
    """How many samples of each length are left.

    ``there`` has bit ``l`` set where a sample of ``l`` tokens is left, ``mirrored`` then has bit
    ``capacity - l``: both moved onto each other tell which lengths add up to a total.
    """

    def __init__(self, lengths: np.ndarray, capacity: int) -> None:
        self.capacity = capacity
        self.counts = np.bincount(lengths, minlength=capacity + 1).tolist()
        self.there = self.mirrored = 0
        for length in np.unique(lengths).tolist():
            self._flip(length)

    def _flip(self, length: int) -> None:
        self.there ^= 1 << length
        self.mirrored ^= 1 << (self.capacity - length)

    def take(self, length: int) -> None:
        self.counts[length] -= 1
        if not self.counts[length]:
            self._flip(length)

    def put_back(self, length: int) -> None:
        if not self.counts[length]:
            self._flip(length)
        self.counts[length] += 1

    def longest(self, most: int) -> int:
        """The longest length left of at most ``most`` tokens, else 0."""
        return max(0, (self.there & ((2 << most) - 1)).bit_length() - 1)

    def pair(self, total: int) -> int:
        """The longer one of two samples of ``total`` tokens, as alike as can be, else 0."""
        half = (total + 1) // 2
        both = self.there & (self.mirrored >> (self.capacity - total))
        if 2 * half == total and self.counts[half] < 2:
            both &= ~(1 << half)
        both >>= half
        return (both & -both).bit_length() - 1 + half if both else 0

    def exact(self, total: int, to_come: list[int]) -> list[int]:
        """One, two or three lengths left that add up to ``total``, the third one of ``to_come``."""
        if self.there >> total & 1:
            return [total]
        if longer := self.pair(total):
            return [longer, total - longer]
        for length in to_come:
            if length < total and self.counts[length]:
                self.take(length)
                longer = self.pair(total - length)
                self.put_back(length)
                if longer:
                    return [length, longer, total - length - longer]
        return []


def exact_fill(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The pack of each sample, int64 [n], counted from 0 in the order they were filled.

    Args:
        lengths: int [n], tokens, each from 1 to ``capacity``, in an order by lot.
    """
    stock = _Stock(lengths, capacity)
    order = lengths.tolist()
    enough = int(TIMES_MEAN * lengths.mean())
    come = 0
    placed: list[int] = []
    sizes: list[int] = []
    while stock.there:
        before = len(placed)
        space = capacity

        def put(length: int) -> None:
            nonlocal space
            stock.take(length)
            placed.append(length)
            space -= length

        put(stock.longest(capacity))
        while space > enough and come < len(order) and order[come] <= space:
            if stock.counts[order[come]]:
                put(order[come])
            come += 1
        while space and (longest := stock.longest(space)):
            for length in stock.exact(space, order[come : come + TRIED]) or [longest]:
                put(length)
        sizes.append(len(placed) - before)
    packs = np.empty(len(order), dtype=np.int64)
    of_placed = np.repeat(np.arange(len(sizes)), sizes)
    # Samples of one length are interchangeable: the first placed is the first in the order.
    packs[np.argsort(lengths, kind="stable")] = of_placed[np.argsort(placed, kind="stable")]
    return packs
