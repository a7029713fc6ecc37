"""Which kinds of media a plan has: with DeepSpeed every row must have them all.

A rank whose row has no image would not run the vision tower. With ZeRO stage 3 it would wait for
other parameters than the ranks that do; with stages 1 and 3 a forward that leaves a parameter out
adds what comes later to its gradient of the step before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardline.errors import DataError
from shardline.files import sha256_file
from shardline.plan_file import Place, Plan
from shardline.token_index import grid_table, read_index

IMAGE, VIDEO = 1, 2


@dataclass(frozen=True)
class MediaKinds:
    """The kinds of media in a plan, as bits: 1 for images, 2 for videos.

    Attributes:
        packs: uint8 [packs].
        smallest: of each kind, the planned sample with the fewest patches; of that kind alone, if
            there is one.
    """

    packs: np.ndarray
    smallest: dict[int, Place]

    def stand_ins(self, packs: range) -> list[Place]:
        """Samples with the plan's kinds of media that are in none of some consecutive packs."""
        there = int(np.bitwise_or.reduce(self.packs[packs.start : packs.stop], initial=0))
        return [place for kind, place in sorted(self.smallest.items()) if not there & kind]


def media_kinds(plan: Plan, results: Path) -> MediaKinds:
    """The kinds in a plan's packs, and what can stand in for them.

    Raises:
        DataError: an index is not the planned one, or all samples of a kind were cut short.
    """
    kinds, patches = sample_kinds(plan, results)
    smallest = {}
    for kind, name in ((IMAGE, "images"), (VIDEO, "videos")):
        having = (kinds & kind) > 0
        # A sample that was cut short may lack its media.
        whole = np.flatnonzero(having & (plan.cut == 0))
        if len(whole):
            order = np.lexsort((plan.shard[whole], patches[whole], kinds[whole] != kind))
            first = whole[order[0]]
            columns = (plan.shard, plan.row, plan.length)
            smallest[kind] = Place(*(int(column[first]) for column in columns))
        elif having.any():
            raise DataError(
                f"every planned sample with {name} is cut short, and DeepSpeed needs one that is "
                "whole; raise max_length, or train without DeepSpeed"
            )
    return MediaKinds(np.bitwise_or.reduceat(kinds, plan.pack_starts[:-1]), smallest)


def sample_kinds(plan: Plan, results: Path) -> tuple[np.ndarray, np.ndarray]:
    """Look the planned samples up in the indexes of their shards.

    Returns:
        ``kinds`` uint8 [samples]: the kinds of media of each, as bits; ``patches`` int32 [samples].

    Raises:
        DataError: an index is not the planned one.
    """
    kinds = np.zeros(len(plan.shard), dtype=np.uint8)
    patches = np.zeros(len(plan.shard), dtype=np.int32)
    for number, shard in enumerate(plan.summary["shards"]):
        drawn = np.flatnonzero(plan.shard == number)
        if not len(drawn):
            continue
        path = results / shard["index"]
        if not path.is_file() or sha256_file(path) != shard["index_sha256"]:
            raise DataError(f"{path}: missing, or changed since the plan was made; plan again")
        index = read_index(path, ["patches", "grids", "intervals"])
        rows = plan.row[drawn]
        kinds[drawn] = _of_rows(index)[rows]
        patches[drawn] = index["patches"].to_numpy()[rows]
    return kinds, patches


def _of_rows(index: pa.Table) -> np.ndarray:
    """uint8 [rows]: a video is known by its interval, or by more than one time."""
    counts, grids = grid_table(index["grids"])
    intervals = np.asarray(index["intervals"].combine_chunks().flatten(), dtype=np.float64)
    bits = np.where((intervals > 0) | (grids[:, 0] > 1), VIDEO, IMAGE).astype(np.uint8)
    kinds = np.zeros(len(counts), dtype=np.uint8)
    np.bitwise_or.at(kinds, np.repeat(np.arange(len(counts)), counts), bits)
    return kinds
