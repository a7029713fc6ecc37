"""Reading a plan: the packs of each step, and from a step back to its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardline.errors import DataError
from shardline.files import read_json, sha256_file
from shardline.token_index import read_index


class Place(NamedTuple):
    """Where a planned sample lies: place in the plan's ``shards``, and row there.

    ``length``: expanded tokens that it has in its pack; ``cut``: tokens left out at its end.
    """

    shard: int
    row: int
    length: int
    cut: int = 0


@dataclass(frozen=True)
class Plan:
    """A stage's plan in memory, 16 bytes a drawn sample.

    Attributes:
        summary: the plan's JSON.
        step_starts: int64 [steps + 1], first pack of each step.
        pack_starts: int64 [packs + 1], first sample of each pack.
        tokens, patches, supervised: int32 [packs].
        shard, row, length, cut: int32 [samples], in training order.
    """

    summary: Mapping[str, Any]
    step_starts: np.ndarray
    pack_starts: np.ndarray
    tokens: np.ndarray
    patches: np.ndarray
    supervised: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    length: np.ndarray
    cut: np.ndarray

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.step_starts) - 1

    def packs(self, step: int) -> range:
        """The packs of a step (from 0)."""
        return range(int(self.step_starts[step]), int(self.step_starts[step + 1]))

    def samples(self, pack: int) -> list[Place]:
        """The samples of a pack, in order."""
        part = slice(int(self.pack_starts[pack]), int(self.pack_starts[pack + 1]))
        columns = (self.shard[part], self.row[part], self.length[part], self.cut[part])
        return [Place(*map(int, place)) for place in zip(*columns, strict=True)]

    def supervised_of(self, step: int) -> int:
        """Tokens that the loss of a whole step is divided by."""
        part = slice(int(self.step_starts[step]), int(self.step_starts[step + 1]))
        return int(self.supervised[part].sum())


def read_plan(plan: Path, parquet: Path) -> Plan:
    """Load a plan and check that its two files belong together.

    Raises:
        DataError: a file is missing or damaged, or the packs are not those of the summary.
    """
    summary = read_json(plan)
    if not parquet.is_file() or sha256_file(parquet) != summary["parquet_sha256"]:
        raise DataError(f"{parquet}: missing, or not the packs that {plan} describes; plan again")
    try:
        table = pq.read_table(parquet, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{parquet}: not a plan: {error}") from None
    column = table["samples"].combine_chunks()
    starts = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(np.asarray(column.value_lengths()), out=starts[1:])
    flat = column.flatten()
    columns = [np.asarray(flat.field(name)) for name in ("shard", "row", "length")]
    has_cut = flat.type.get_field_index("cut") >= 0  # only where a stage truncates
    cut = np.asarray(flat.field("cut")) if has_cut else np.zeros_like(columns[0])
    return Plan(
        summary,
        np.searchsorted(table["step"].to_numpy(), np.arange(summary["steps"] + 1)),
        starts,
        *(table[name].to_numpy() for name in ("tokens", "patches", "supervised")),
        *columns,
        cut,
    )


def samples_of_step(plan: Plan, step: int, results: Path) -> list[dict[str, Any]]:
    """The samples that a step (from 0) trains on, in the order of its packs.

    Returns:
        ``{"id", "dataset", "pack", "shard", "row", "length"}`` each; ``pack`` counts from 0 in the
        step, ``shard`` is the tar's path below ``results``.

    Raises:
        DataError: there is no such step, or an index is not the planned one.
    """
    if not 0 <= step < plan.steps:
        raise DataError(f"the plan has steps 0 to {plan.steps - 1}, not {step}")
    indexes: dict[int, pa.Table] = {}
    found = []
    for number, pack in enumerate(plan.packs(step)):
        for place in plan.samples(pack):
            shard = plan.summary["shards"][place.shard]
            if place.shard not in indexes:
                path = results / shard["index"]
                if not path.is_file() or sha256_file(path) != shard["index_sha256"]:
                    raise DataError(f"{path}: missing, or changed since the plan was made")
                indexes[place.shard] = read_index(path, ["id", "dataset"])
            index = indexes[place.shard]
            found.append(
                {
                    "id": index["id"][place.row].as_py(),
                    "dataset": index["dataset"][place.row].as_py(),
                    "pack": number,
                    "shard": shard["path"],
                    "row": place.row,
                    "length": place.length,
                }
            )
    return found
