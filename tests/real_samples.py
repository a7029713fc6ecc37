"""Samples of the real data, converted by the program that the workflow runs."""

from __future__ import annotations

import json
from pathlib import Path

import convert_dataset
from shardline.embedded import read_medium
from shardline.files import read_json, read_jsonl
from shardline.locks import write_lock
from shardline.samples import Sample
from token_data import command_line


def convert(folder: Path, work: Path, dataset: str, **options) -> list[Sample]:
    """The samples of a raw folder.

    Args:
        work: where the results go; ``work/raw/<dataset>`` links to the folder.
        options: of the dataset entry: ``format``, ``frame``, ``format_options``.
    """
    raw = work / "raw" / dataset
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.symlink_to(folder)
    lock = raw.with_name(f"{dataset}.lock.json")
    listed = raw.with_name(f"{dataset}.files.tsv")
    write_lock(raw, lock, listed, name=dataset, kind="dataset", source="folder", revision="")
    manifest = work / "converted" / dataset / "manifest.json"
    arguments = {
        "dataset": dataset,
        "options": json.dumps(
            {
                "frame": None,
                "format_options": {},
                "shard_rows": 10_000,
                "max_reject_share": 1.0,
                "max_pixels": 100_000_000,
                "plugins": [],
                **options,
            }
        ),
        "raw": raw,
        "lock": lock,
        "manifest": manifest,
        "rejects": manifest.with_name("rejects.jsonl"),
    }
    convert_dataset.main(command_line(arguments))
    return [
        Sample.from_json(row)
        for shard in read_json(manifest)["shards"]
        for row in read_jsonl(manifest.parent / shard["name"])
    ]


def media_bytes(sample: Sample, work: Path) -> list[bytes]:
    """The files of a sample's media."""
    return [read_medium(work / "raw" / sample.dataset / medium.path) for medium in sample.media]
