"""Which samples a stage sees, in which order: shares of datasets, and epochs as permutations.

Random choices use only hashes and the raw bits of a counter-based generator, which stay the same
in every version of numpy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from shardline.errors import DataError


def apportion(counts: Sequence[int], percents: Sequence[float]) -> list[int]:
    """How many samples of each dataset are asked for, rounded so that the total is right.

    The shares ``count * percent / 100`` are cut to whole numbers, and the samples still missing
    from their rounded sum go to the largest remainders (the earlier dataset where equal).
    """
    shares = [
        count * Fraction(str(percent)) / 100
        for count, percent in zip(counts, percents, strict=True)
    ]
    taken = [math.floor(share) for share in shares]
    missing = math.floor(sum(shares) + Fraction(1, 2)) - sum(taken)
    by_remainder = sorted(range(len(shares)), key=lambda place: (-(shares[place] % 1), place))
    for place in by_remainder[:missing]:
        taken[place] += 1
    return taken


def apportion_mixture(counts: Sequence[int], mixture: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many samples of each dataset an epoch takes.

    Args:
        counts: samples that there are of each.
        mixture: of each, ``samples``: exactly so many, or ``percent`` of those there are, shared
            out among such datasets by `apportion`.

    Raises:
        DataError: samples are asked of a dataset that has none.
    """
    for count, entry in zip(counts, mixture, strict=True):
        if entry.get("samples") and not count:
            raise DataError(
                f"train: {entry['dataset']}#{entry['samples']}: no sample of it is left"
            )
    shared = [place for place, entry in enumerate(mixture) if "samples" not in entry]
    taken = [entry.get("samples", 0) for entry in mixture]
    percents = [mixture[place]["percent"] for place in shared]
    shares = apportion([counts[place] for place in shared], percents)
    for place, share in zip(shared, shares, strict=True):
        taken[place] = share
    return taken


def choose(ids: Sequence[str], count: int, seed: int, dataset: str) -> np.ndarray:
    """Positions, in rising order, of ``count`` of a dataset's samples; more than all repeat.

    Whether a sample is in a share depends on its id, not on its place: a larger share contains the
    smaller one, and a grown dataset keeps most of it.
    """
    if not ids:
        return np.empty(0, dtype=np.int64)
    repeats, rest = divmod(count, len(ids))
    chosen = np.tile(np.arange(len(ids), dtype=np.int64), repeats)
    if rest:
        ranks = np.array([_rank(seed, dataset, name) for name in ids], dtype=np.uint64)
        chosen = np.concatenate([chosen, np.argsort(ranks, kind="stable")[:rest]])
    return np.sort(chosen)


def _rank(seed: int, dataset: str, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}\n{dataset}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def permutation(size: int, seed: int, epoch: int, what: str = "epoch") -> np.ndarray:
    """The order of ``size`` samples in an epoch (from 0), int64 [size].

    Args:
        what: is ordered; the order of one thing says nothing of that of another.
    """
    return np.argsort(_bits(size, seed, f"{what} {epoch}"), kind="stable")


def redraw(size: int, count: int, seed: int, epoch: int) -> np.ndarray:
    """``count`` samples of ``size``, each by lot whatever was drawn before, int64 [count]."""
    bits = _bits(count, seed, f"redraw {epoch}") >> np.uint64(32)
    return (bits * np.uint64(size) >> np.uint64(32)).astype(np.int64)


def _bits(count: int, seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}\n{purpose}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)


def draw(size: int, total: int, seed: int) -> np.ndarray:
    """The first ``total`` of the concatenated epochs over ``size`` samples, int64 [total]."""
    epochs = -(-total // size)
    order = np.concatenate([permutation(size, seed, epoch) for epoch in range(epochs)])
    return order[:total]
