"""From the indexes of tokenised datasets to the samples that a plan may draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from shardline.errors import DataError, GateError
from shardline.files import sha256_file
from shardline.plan_pool import Pool, given_packs, keep_part
from shardline.preflight import COLUMNS, POLICY, REASONS, preflight
from shardline.token_index import grid_table, read_index
from shardline.truncation import CUT_BY, cut_samples

STAGE = "plan"
SHOWN = 5  # rejects that the gate's message names


def read_pool(
    manifest: Path,
    content: Mapping[str, Any],
    first_shard: int,
    family: ModuleType,
    options: Mapping[str, Any],
    merging: Any = None,
) -> Pool:
    """Read and check all indexes of a dataset.

    Args:
        content: of the manifest.
        first_shard: number of its first shard in the plan.
        options: ``max_length``, ``max_patches``, ``too_long``, ``packing``, ``split``, ``part``,
            ``seed``.
        merging: a ``Merging`` of the family, if its vision tower merges tokens.

    Raises:
        DataError: an index changed since its manifest was written, or is damaged.
    """
    pool = Pool(content["dataset"], refused=content["samples"].get("rejected", 0))
    parts: list[dict[str, np.ndarray]] = []
    packs: list[str] = []
    for number, shard in enumerate(content["shards"], start=first_shard):
        index = manifest.parent / shard["index"]
        if sha256_file(index) != shard["index_sha256"]:
            raise DataError(f"{index}: changed since {manifest} was written; tokenise it again")
        table = read_index(index, ["id", "group", "pack", *COLUMNS])
        try:
            merged = _merged(table, family, merging)
            problems = _check(table, shard["bytes"], family, pool.dataset, options, merged)
        except DataError as error:
            raise DataError(f"{index}: {error}") from None
        ids = table["id"].to_pylist()
        pool.rejects += [
            _reject(pool.dataset, table, row, REASONS[problems[row]], options["max_length"], merged)
            for row in np.flatnonzero(problems).tolist()
        ]
        good = problems == 0
        part = keep_part(table["group"].to_pylist(), ids, pool.dataset, options)
        pool.held_out += int(np.count_nonzero(good & ~part))
        rows = np.flatnonzero(good & part)
        parts.append(_columns(table, rows, number, options["max_length"], merged))
        own = table["pack"].to_pylist()
        packs += [own[row] for row in rows.tolist()]
        pool.ids += [ids[row] for row in rows.tolist()]
    pool.packs = given_packs(packs, pool.ids, options)
    if len(pool.ids) + len(pool.rejects) + pool.held_out != content["samples"]["kept"]:
        raise DataError(f"{manifest}: counts {content['samples']['kept']} samples, not what it has")
    empty = np.empty(0, dtype=np.int32)
    pool.columns = {
        name: np.concatenate([empty, *(columns[name] for columns in parts)])
        for name in ("shard", "row", "length", "patches", "supervised", "cut", "merged")
    }
    return pool


def _merged(table: pa.Table, family: ModuleType, merging: Any) -> np.ndarray:
    """int64 [samples]: visual tokens of the index that token merging takes away."""
    if not merging:
        return np.zeros(table.num_rows, dtype=np.int64)
    media, grids = grid_table(table["grids"])
    kinds, places = np.unique(grids, axis=0, return_inverse=True)
    fewer = [
        family.visual_tokens(kind) - family.visual_tokens(kind, merging) for kind in kinds.tolist()
    ]
    ends = np.concatenate([[0], np.cumsum(np.array(fewer, dtype=np.int64)[places.reshape(-1)])])
    return np.diff(ends[np.concatenate([[0], np.cumsum(media)])])


def _check(
    table: pa.Table,
    size: int,
    family: ModuleType,
    dataset: str,
    options: Mapping[str, Any],
    merged: np.ndarray,
) -> np.ndarray:
    return preflight(
        table,
        size,
        family,
        options["max_length"],
        merged=merged,
        dataset=dataset,
        max_patches=options.get("max_patches"),
        truncate=options.get("too_long") == "truncate_answer",
    )


def _columns(
    table: pa.Table, rows: np.ndarray, shard: int, max_length: int, merged: np.ndarray
) -> dict[str, np.ndarray]:
    merged = merged[rows]
    kept, learned = cut_samples(table.select(CUT_BY).take(rows), max_length + merged)
    columns = {
        "shard": np.full(len(rows), shard),
        "row": rows,
        "length": kept - merged,
        "patches": table["patches"].to_numpy()[rows],
        "supervised": learned,
        "cut": table["length"].to_numpy()[rows] - kept,
        "merged": merged,
    }
    return {name: values.astype(np.int32) for name, values in columns.items()}


def _reject(
    dataset: str, table: pa.Table, row: int, reason: str, max_length: int, merged: np.ndarray
) -> dict[str, Any]:
    facts = ("length", "text_length", "placeholders", "patches", "supervised")
    detail = ", ".join(f"{name} {table[name][row].as_py()}" for name in facts)
    if merged[row]:
        detail += f", {merged[row]} of the length merged"
    return {
        "dataset": dataset,
        "row": table["id"][row].as_py().removeprefix(f"{dataset}:"),
        "stage": STAGE,
        "reason": reason,
        "detail": f"{detail}; grids {table['grids'][row].as_py()}; max_length {max_length}",
    }


def check_rejects(pools: Sequence[Pool], allowed: float | None) -> None:
    """Stop where more of a dataset was refused than the stage allows.

    Counted is what tokenising and preflight refused, but not what is only too long for the stage.

    Args:
        allowed: share of the samples that went into tokenising; None for any.

    Raises:
        GateError: the message names the dataset, its first rows and their reasons.
    """
    for pool in pools if allowed is not None else ():
        bad = [row for row in pool.rejects if row["reason"] not in POLICY]
        seen = len(pool.ids) + pool.held_out + len(pool.rejects) + pool.refused
        refused = len(bad) + pool.refused
        if refused > allowed * seen:
            reasons = dict(Counter(row["reason"] for row in bad))
            rows = ", ".join(f"{row['row']} ({row['reason']})" for row in bad[:SHOWN])
            found = f": {rows}{', ...' if len(bad) > SHOWN else ''}; {reasons}" if bad else ""
            raise GateError(
                f"preflight: {pool.dataset}: {refused} of {seen} samples are unusable "
                f"({pool.refused} by tokenising, see rejects.jsonl of its tokens){found}; "
                f"max_reject_share = {allowed} allows {int(allowed * seen)}: correct the data, or "
                "raise max_reject_share of the stage"
            )
