"""Scores that earlier runs have found, looked up by the images' hashes.

Beside each file of scores lies ``known-<block>-<key>.npy``, a table of its images and of those it
had the time before: in a dataset that grew, images move on to the next shard, whose turn comes when
this one's file is already written anew. Tables are read whole, but not into Python objects: 2,000
of them with 5,000 images each take seconds, not minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from shardline.files import atomic_file

Scores = dict[str, dict[str, float]]
HASH, CURRENT = "sha256", "is current"


def find_known(folder: Path, key: str, wanted: Iterable[str]) -> Scores:
    """The scores of those of the wanted images that are known.

    Args:
        folder: where the scores of a dataset are.
        key: what made them: options, model and code.
        wanted: sha256 of each image.
    """
    wanted = np.array(sorted(wanted), "S64")
    found: Scores = {}
    for path in sorted(folder.glob(f"known-*-{key}.npy")):
        if len(found) == len(wanted):
            break
        table = np.load(path)
        found |= _rows(table[np.isin(table[HASH], wanted)])
    return found


def keep_known(folder: Path, block: str, key: str, scores: Mapping[str, dict[str, float]]) -> None:
    """Write down the scores of a block's images, in place of what an earlier run wrote."""
    path = folder / f"known-{block}-{key}.npy"
    before: Scores = {}
    if path.is_file():
        table = np.load(path)
        before = _rows(table[table[CURRENT]])
    for other in folder.glob(f"known-{block}-*.npy"):
        if other != path:
            other.unlink()
    names = sorted(set().union(*scores.values(), *before.values()))
    kind = [(HASH, "S64"), (CURRENT, bool), *((name, "f8") for name in names)]
    rows = [
        (sha256, sha256 in scores, *(values[name] for name in names))
        for sha256, values in {**before, **scores}.items()
    ]
    with atomic_file(path) as file:
        np.save(file, np.array(rows, kind))


def _rows(table: np.ndarray) -> Scores:
    names = table.dtype.names[2:]
    return {
        sha256.decode(): dict(zip(names, values, strict=True))
        for sha256, _, *values in table.tolist()
    }
