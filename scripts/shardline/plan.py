"""The plan of a training stage: which samples make up which pack of which step.

It is the whole data order of a training, fixed before any hardware is known: steps are cut from
seeded permutations of the mixture, and packed one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardline.errors import ConfigError, DataError
from shardline.files import atomic_file, read_json, sha256_file, write_json, write_jsonl
from shardline.mixture import apportion, choose, draw
from shardline.packing import pack_steps
from shardline.preflight import COLUMNS, REASONS, preflight
from shardline.token_index import MODEL_FACTS, read_index

STAGE = "plan"
LENGTH_BINS = 20
PACKAGES = ("numpy", "pyarrow")


@dataclass
class Pool:
    """The usable samples of one dataset, and the rejected ones."""

    dataset: str
    ids: list[str] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)


def write_plan(
    manifests: Sequence[Path],
    options: Mapping[str, Any],
    family: ModuleType,
    *,
    plan: Path,
    parquet: Path,
    rejects: Path,
) -> None:
    """Plan a stage and write the summary, the packs and the rejected samples.

    Args:
        manifests: of the token datasets, at ``.../tokens/<dataset>/<variant>/manifest.json``.
        options: ``recipe``, ``stage``, ``method``, ``seed``, ``mixture``
            [{"dataset", "percent"}], ``global_batch`` {"samples"}, ``steps`` or ``epochs``,
            ``max_length``.

    Raises:
        ConfigError: mixture and manifests do not match, or the datasets were not tokenised alike.
        DataError: an index changed since its manifest was written, or no sample is left.
    """
    sources = _sources(manifests, options["mixture"])
    shards, pools = [], []
    for manifest, content in sources:
        pools.append(_pool(manifest, content, len(shards), family, options["max_length"]))
        folder = "/".join(manifest.parent.parts[-3:])
        shards += [
            {
                "path": f"{folder}/{shard['name']}",
                "index": f"{folder}/{shard['index']}",
                **{key: shard[key] for key in ("bytes", "sha256", "index_sha256")},
            }
            for shard in content["shards"]
        ]
    taken = apportion(
        [len(pool.ids) for pool in pools], [entry["percent"] for entry in options["mixture"]]
    )
    drawn, epoch_samples = _draw(pools, taken, options)
    order, packs, steps = pack_steps(
        drawn["length"], options["global_batch"]["samples"], options["max_length"]
    )
    table = _table({name: values[order] for name, values in drawn.items()}, packs, steps)
    with atomic_file(parquet) as file:
        pq.write_table(table, file, compression="zstd")
    rejected = [row for pool in pools for row in pool.rejects]
    write_jsonl(rejects, rejected)
    totals = {
        name: int(drawn[name].sum(dtype=np.int64)) for name in ("length", "supervised", "patches")
    }
    write_json(
        plan,
        {
            "stage": STAGE,
            "recipe": options["recipe"],
            "name": options["stage"],
            "method": options["method"],
            "seed": options["seed"],
            "max_length": options["max_length"],
            "global_batch": options["global_batch"],
            **{key: sources[0][1][key] for key in MODEL_FACTS},
            "steps": int(steps[-1]) + 1,
            "samples": len(order),
            "distinct_samples": len(
                np.unique(drawn["shard"].astype(np.int64) << 32 | drawn["row"])
            ),
            "epochs": round(len(order) / epoch_samples, 6),
            "packs": len(steps),
            "max_packs_per_step": int(np.bincount(steps).max()),
            "tokens": totals["length"],
            "supervised_tokens": totals["supervised"],
            "patches": totals["patches"],
            "fill": round(totals["length"] / (len(steps) * options["max_length"]), 6),
            "shards": shards,
            "shares": _shares(pools, taken, options["mixture"]),
            "histogram": _histogram(drawn["length"]),
            "rejected": len(rejected),
            "reasons": dict(Counter(row["reason"] for row in rejected)),
            "parquet_sha256": sha256_file(parquet),
            "versions": {package: version(package) for package in PACKAGES},
        },
    )


def _sources(
    manifests: Sequence[Path], mixture: Sequence[Mapping[str, Any]]
) -> list[tuple[Path, dict[str, Any]]]:
    """Path and content of each manifest, in the order of the mixture."""
    contents = {}
    for path in manifests:
        content = read_json(path)
        if content["dataset"] in contents:
            raise ConfigError(f"train: the dataset {content['dataset']} is named twice")
        contents[content["dataset"]] = (path, content)
    names = [entry["dataset"] for entry in mixture]
    if sorted(names) != sorted(contents):
        raise ConfigError(f"train names {names}, the token manifests are of {sorted(contents)}")
    ordered = [contents[name] for name in names]
    filled = [(path, content) for path, content in ordered if content["shards"]]
    if not filled:
        raise DataError(f"train: {', '.join(names)}: no sample is left to plan with")
    for path, content in filled:
        for key in MODEL_FACTS:
            if content[key] != filled[0][1][key]:
                raise ConfigError(
                    f"{path}: its {key} is not that of {filled[0][0]}: datasets of one stage are "
                    "tokenised for the same model"
                )
    return filled + [entry for entry in ordered if not entry[1]["shards"]]


def _pool(
    manifest: Path,
    content: Mapping[str, Any],
    first_shard: int,
    family: ModuleType,
    max_length: int,
) -> Pool:
    """Read and check all indexes of a dataset."""
    pool = Pool(content["dataset"])
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("shard", "row", "length", "patches", "supervised")
    }
    for number, shard in enumerate(content["shards"], start=first_shard):
        index = manifest.parent / shard["index"]
        if sha256_file(index) != shard["index_sha256"]:
            raise DataError(f"{index}: changed since {manifest} was written; tokenise it again")
        table = read_index(index, ["id", *COLUMNS])
        try:
            problems = preflight(table, shard["bytes"], family, max_length)
        except DataError as error:
            raise DataError(f"{index}: {error}") from None
        good = np.flatnonzero(problems == 0)
        parts["shard"].append(np.full(len(good), number, dtype=np.int32))
        parts["row"].append(good.astype(np.int32))
        for name in ("length", "patches", "supervised"):
            parts[name].append(table[name].to_numpy()[good])
        names = table["id"].to_pylist()
        pool.ids += [names[row] for row in good.tolist()]
        pool.rejects += [
            _reject(pool.dataset, table, row, REASONS[problems[row]], max_length)
            for row in np.flatnonzero(problems).tolist()
        ]
    if len(pool.ids) + len(pool.rejects) != content["samples"]["kept"]:
        raise DataError(f"{manifest}: counts {content['samples']['kept']} samples, not what it has")
    pool.columns = {
        name: np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        for name, arrays in parts.items()
    }
    return pool


def _reject(
    dataset: str, table: pa.Table, row: int, reason: str, max_length: int
) -> dict[str, Any]:
    facts = ("length", "text_length", "placeholders", "patches", "supervised")
    detail = ", ".join(f"{name} {table[name][row].as_py()}" for name in facts)
    return {
        "dataset": dataset,
        "row": table["id"][row].as_py().removeprefix(f"{dataset}:"),
        "stage": STAGE,
        "reason": reason,
        "detail": f"{detail}; grids {table['grids'][row].as_py()}; max_length {max_length}",
    }


def _draw(
    pools: Sequence[Pool], taken: Sequence[int], options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], int]:
    """The samples of the whole training in the order drawn, and how many make an epoch."""
    chosen = [
        choose(pool.ids, count, options["seed"], pool.dataset)
        for pool, count in zip(pools, taken, strict=True)
    ]
    mixture = {
        name: np.concatenate(
            [pool.columns[name][rows] for pool, rows in zip(pools, chosen, strict=True)]
        )
        for name in pools[0].columns
    }
    size = sum(taken)
    if not size:
        names = ", ".join(pool.dataset for pool in pools)
        raise DataError(f"train: {names}: no sample is left to plan with; see the rejects")
    if (options["steps"] is None) == (options["epochs"] is None):
        raise ConfigError("a stage has either `steps` or `epochs`")
    if options["steps"] is not None:
        total = options["steps"] * options["global_batch"]["samples"]
    else:
        total = max(1, round(options["epochs"] * size))
    order = draw(size, total, options["seed"])
    return {name: values[order] for name, values in mixture.items()}, size


def _table(samples: Mapping[str, np.ndarray], packs: np.ndarray, steps: np.ndarray) -> pa.Table:
    """One row a pack; ``samples`` are ordered by pack."""
    starts = np.searchsorted(packs, np.arange(len(steps) + 1))
    struct = pa.StructArray.from_arrays(
        [pa.array(samples[name].astype(np.int32)) for name in ("shard", "row", "length")],
        names=["shard", "row", "length"],
    )
    sums = {
        name: np.add.reduceat(samples[column].astype(np.int64), starts[:-1]).astype(np.int32)
        for name, column in (
            ("tokens", "length"),
            ("patches", "patches"),
            ("supervised", "supervised"),
        )
    }
    return pa.table(
        {
            "step": pa.array(steps.astype(np.int32)),
            **{name: pa.array(values) for name, values in sums.items()},
            "samples": pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), struct),
        }
    )


def _shares(
    pools: Sequence[Pool], taken: Sequence[int], mixture: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of each dataset: percent asked for and got, samples available and taken an epoch."""
    asked = {entry["dataset"]: entry["percent"] for entry in mixture}
    return {
        pool.dataset: {
            "asked": asked[pool.dataset],
            "got": round(100 * count / len(pool.ids), 4) if pool.ids else 0.0,
            "available": len(pool.ids),
            "taken": count,
        }
        for pool, count in zip(pools, taken, strict=True)
    }


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Tokens of the drawn samples: ``counts[i]`` have ``edges[i]`` < tokens <= ``edges[i + 1]``."""
    edges = np.unique(np.linspace(0, lengths.max(), LENGTH_BINS + 1).astype(np.int64))
    places = np.searchsorted(edges, lengths, side="left") - 1
    return {
        "edges": edges.tolist(),
        "counts": np.bincount(places, minlength=len(edges) - 1).tolist(),
    }
