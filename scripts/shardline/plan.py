"""The plan of a training stage: which samples make up which pack of which step.

It is the whole data order of a training, fixed before any hardware is known: seeded permutations
of the mixture, in packs, in steps.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardline.arrangement import Arrangement, arrange, packing_of
from shardline.errors import ConfigError, DataError
from shardline.files import atomic_file, read_json, sha256_file, write_json, write_jsonl
from shardline.mixture import apportion_mixture
from shardline.plan_pool import mixture_of
from shardline.plan_reading import STAGE, check_rejects, read_pool
from shardline.plan_summary import figures, shares, split
from shardline.token_index import MODEL_FACTS

PACKAGES = ("numpy", "pyarrow")
SUMS = {"tokens": "length", "patches": "patches", "supervised": "supervised"}
"""Columns of a pack, and those of its samples that they add up."""


def write_plan(
    manifests: Sequence[Path],
    options: Mapping[str, Any],
    family: ModuleType,
    *,
    plan: Path,
    parquet: Path,
    rejects: Path,
    merging: Any = None,
) -> None:
    """Plan a stage and write the summary, the packs and the rejected samples.

    Args:
        manifests: of the token datasets, at ``.../tokens/<dataset>/<variant>/manifest.json``.
        options: ``recipe``, ``stage``, ``method``, ``seed``, ``mixture``
            [{"dataset", "percent" or "samples"}] and those of `arrange` and `read_pool`;
            ``max_reject_share`` of `check_rejects`.
        merging: a ``Merging`` of the family, if its vision tower merges tokens.

    Raises:
        ConfigError: mixture and manifests do not match, or the datasets were not tokenised alike.
        DataError: an index changed since its manifest was written, or no sample is left.
        GateError: more samples were refused than the stage allows.
    """
    packing = packing_of(options)
    sources = _sources(manifests, options["mixture"])
    shards, pools = [], []
    for manifest, content in sources:
        pools.append(read_pool(manifest, content, len(shards), family, options, merging))
        folder = "/".join(manifest.parent.parts[-3:])
        shards += [
            {
                "path": f"{folder}/{shard['name']}",
                "index": f"{folder}/{shard['index']}",
                **{key: shard[key] for key in ("bytes", "sha256", "index_sha256")},
            }
            for shard in content["shards"]
        ]
    rejected = [row for pool in pools for row in pool.rejects]
    write_jsonl(rejects, rejected)
    check_rejects(pools, options.get("max_reject_share"))
    for pool in pools if options.get("part") != "validation" else ():
        if not pool.ids:
            refused = pool.refused + len(pool.rejects)
            print(
                f"train: {pool.dataset}: no sample of it is left; {options['stage']} goes on "
                f"without it ({refused} refused, {pool.held_out} held out)",
                file=sys.stderr,
            )
    taken = apportion_mixture([len(pool.units) for pool in pools], options["mixture"])
    mixture, given, chosen = mixture_of(pools, taken, options)
    size = len(mixture["length"])
    arranged = arrange(mixture["length"], mixture["patches"], options, given)
    drawn = {name: values[arranged.order] for name, values in mixture.items()}
    truncating = options.get("too_long") == "truncate_answer"
    table = _table(drawn, arranged, ("shard", "row", "length", *(["cut"] if truncating else [])))
    with atomic_file(parquet) as file:
        pq.write_table(table, file, compression="zstd")
    write_json(
        plan,
        {
            "stage": STAGE,
            "recipe": options["recipe"],
            "name": options["stage"],
            "method": options["method"],
            "part": options.get("part") or "train",
            "seed": options["seed"],
            "max_length": options["max_length"],
            "max_patches": options.get("max_patches"),
            "global_batch": options["global_batch"],
            "packing": packing,
            "fixed_shape": bool(options.get("fixed_shape")),
            "too_long": options.get("too_long") or "reject",
            **_merging(merging, drawn),
            **{key: sources[0][1][key] for key in MODEL_FACTS},
            **figures(drawn, arranged, options["max_length"]),
            "epochs": round(len(arranged.order) / (options.get("epoch_draws") or size), 6),
            "shards": shards,
            "shares": shares(pools, taken, options["mixture"]),
            "chosen_sha256": chosen,
            "split": split(pools, options),
            "rejected": len(rejected),
            "reasons": dict(Counter(row["reason"] for row in rejected)),
            "parquet_sha256": sha256_file(parquet),
            "versions": {package: version(package) for package in PACKAGES},
        },
    )


def _merging(merging: Any, drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the plan says of token merging, if there is any; ``merged``: tokens that it takes."""
    if not merging:
        return {}
    merged = int(drawn["merged"].sum(dtype=np.int64))
    return {"token_merging": {**merging._asdict(), "merged": merged}}


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
        raise DataError(
            f"train: {', '.join(names)}: no sample is left to plan with: conversion or filters "
            "rejected all; see rejects.jsonl in results/converted and results/filtered"
        )
    for path, content in filled:
        for key in MODEL_FACTS:
            if content[key] != filled[0][1][key]:
                raise ConfigError(
                    f"{path}: its {key} is not that of {filled[0][0]}: datasets of one stage are "
                    "tokenised for the same model"
                )
    return filled + [entry for entry in ordered if not entry[1]["shards"]]


def _table(
    samples: Mapping[str, np.ndarray], arranged: Arrangement, names: Sequence[str]
) -> pa.Table:
    """One row a pack; ``samples`` are ordered by pack, with ``names`` of their columns."""
    starts = np.searchsorted(arranged.packs, np.arange(len(arranged.steps) + 1))
    struct = pa.StructArray.from_arrays(
        [pa.array(samples[name].astype(np.int32)) for name in names], names=names
    )
    sums = {
        name: np.add.reduceat(samples[column].astype(np.int64), starts[:-1]).astype(np.int32)
        for name, column in SUMS.items()
    }
    return pa.table(
        {
            "step": pa.array(arranged.steps.astype(np.int32)),
            **{name: pa.array(values) for name, values in sums.items()},
            "samples": pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), struct),
        }
    )
