"""The manifest of a tokenised dataset, put together from its shards' indexes and rejects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from shardline.errors import DataError
from shardline.files import read_json, read_jsonl, sha256_file, write_json, write_jsonl
from shardline.token_index import MODEL_FACTS, read_facts, read_index


def write_token_manifest(
    dataset: str, variant: str, *, filtered: Path, folder: Path, manifest: Path, rejects: Path
) -> None:
    """Check a dataset's token shards against its image shards and write manifest and rejects.

    Args:
        filtered: manifest of the image shards.
        folder: where for each image shard ``<name>.tar`` there are a tar of that name,
            ``<name>.index.parquet`` and ``<name>.rejects.jsonl``.

    Raises:
        DataError: a shard is missing or not the one its index describes, the counts do not add
            up, or shards were made with different tokenizers.
    """
    source = read_json(filtered)
    offered = 0
    shards, rejected = [], []
    shared: dict[str, Any] = {}
    versions: dict[str, set[str]] = {}
    totals: Counter[str] = Counter()
    for image_shard in source["shards"]:
        tar = folder / image_shard["name"]
        index = tar.with_suffix(".index.parquet")
        facts = read_facts(index)
        entry, rows = _entry(tar, index, facts), list(read_jsonl(tar.with_suffix(".rejects.jsonl")))
        if not (
            facts["in"] == image_shard["samples"] * facts["variants"]
            and facts["in"] == facts["kept"] + facts["rejected"]
            and (facts["kept"], facts["rejected"]) == (entry["samples"], len(rows))
        ):
            raise DataError(
                f"{tar}: {image_shard['samples'] * facts['variants']} samples went in, "
                f"{entry['samples']} were kept and {len(rows)} rejected; tokenise this shard again"
            )
        for key in MODEL_FACTS:
            if shared.setdefault(key, facts[key]) != facts[key]:
                raise DataError(f"{tar}: its {key} differs from the other shards'; tokenise again")
        for package, number in facts["versions"].items():
            versions.setdefault(package, set()).add(number)
        offered += facts["in"]
        shards.append(entry)
        rejected += rows
        totals += Counter({name: entry[name] for name in ("tokens", "supervised", "patches")})
    kept = sum(entry["samples"] for entry in shards)
    if source["samples"]["kept"] != sum(shard["samples"] for shard in source["shards"]):
        raise DataError(f"{filtered}: its shards do not hold the samples that it counts")
    write_jsonl(rejects, rejected)
    write_json(
        manifest,
        {
            "stage": "tokens",
            "dataset": dataset,
            "variant": variant,
            **{key: shared.get(key) for key in MODEL_FACTS},
            "samples": {
                "in": offered,
                "kept": kept,
                "rejected": len(rejected),
            },
            "tokens": totals["tokens"],
            "supervised_tokens": totals["supervised"],
            "patches": totals["patches"],
            "reasons": dict(Counter(row["reason"] for row in rejected)),
            "shards": shards,
            "versions": {package: ", ".join(sorted(versions[package])) for package in versions},
        },
    )


def _entry(tar: Path, index: Path, facts: dict[str, Any]) -> dict[str, Any]:
    if not tar.is_file() or tar.stat().st_size != facts["shard"]["bytes"]:
        raise DataError(f"{tar}: not the tar that {index.name} describes; tokenise it again")
    table = read_index(index, ["length", "supervised", "patches"])
    return {
        **facts["shard"],
        "index": index.name,
        "index_sha256": sha256_file(index),
        "samples": table.num_rows,
        "tokens": pc.sum(table["length"]).as_py() or 0,
        "supervised": pc.sum(table["supervised"]).as_py() or 0,
        "patches": pc.sum(table["patches"]).as_py() or 0,
    }
