"""The part of a dataset that no stage of a recipe trains on.

Whether a group is held out follows from its name alone, so that it is the same for each stage,
filter and length, and a grown dataset moves no group from one side to the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def held_out(
    groups: Sequence[str], ids: Sequence[str], percent: float, seed: int, dataset: str
) -> np.ndarray:
    """Which samples are held out, bool [n].

    Args:
        groups: of each sample; a sample whose group is "" is a group of its own.
        percent: of the groups, on average.
    """
    limit = int(percent / 100 * 2**64)
    by_name: dict[str, bool] = {}
    found = np.zeros(len(groups), dtype=bool)
    for place, (group, name) in enumerate(zip(groups, ids, strict=True)):
        key = f"group {group}" if group else f"sample {name}"
        if key not in by_name:
            text = f"{seed}\nheld out\n{dataset}\n{key}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            by_name[key] = int.from_bytes(digest, "little") < limit
        found[place] = by_name[key]
    return found
