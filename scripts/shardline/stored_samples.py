"""Reading the samples that a manifest lists: of a converted dataset or of a filtered one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.errors import DataError
from shardline.files import read_json, read_jsonl, sha256_file
from shardline.samples import Sample, Samples
from shardline.shards import read_shard

STAGES = ("convert", "filter")
AT_HAND = 100_000  # samples that are kept in memory: some 600 MB


def read_manifest(manifest: Path) -> dict[str, Any]:
    """The manifest of a converted or filtered dataset.

    Raises:
        DataError: it is no such manifest.
    """
    content = read_json(manifest)
    if not isinstance(content, dict) or content.get("stage") not in STAGES:
        raise DataError(f"{manifest}: no manifest of a converted or filtered dataset")
    return content


def read_samples(manifest: Path) -> Iterator[Sample]:
    """Yield the samples of a dataset in the order of its shards, one in memory at a time.

    Raises:
        DataError: it is no such manifest, or a shard is not what it says.
    """
    for entry in read_manifest(manifest)["shards"]:
        path = _checked(manifest, entry)
        if path.suffix == ".tar":
            for _, members in read_shard(path):
                yield Sample.from_json(json.loads(json.loads(members["json"])["sample"]))
        else:
            yield from map(Sample.from_json, read_jsonl(path))


@dataclass(frozen=True)
class ConvertedSamples:
    """A converted dataset's samples, read from its shards whenever they are gone through.

    ``shards`` are the manifest's.
    """

    folder: Path
    shards: list[dict[str, Any]]

    def __len__(self) -> int:
        return sum(shard["samples"] for shard in self.shards)

    def __iter__(self) -> Iterator[Sample]:
        for shard in self.shards:
            yield from map(Sample.from_json, read_jsonl(self.folder / shard["name"]))

    def at_hand(self) -> Samples:
        """The samples themselves if they are few, else this."""
        return list(self) if len(self) <= AT_HAND else self


def converted_samples(folder: Path) -> ConvertedSamples:
    """The samples of ``converted/<dataset>``.

    Raises:
        DataError: a shard is not what the manifest says.
    """
    manifest = folder / "manifest.json"
    shards = read_manifest(manifest)["shards"]
    for shard in shards:
        _checked(manifest, shard)
    return ConvertedSamples(folder, shards)


def _checked(manifest: Path, shard: dict[str, Any]) -> Path:
    """Where a shard lies; a `DataError` unless it is what the manifest says."""
    path = manifest.with_name(shard["name"])
    if not path.is_file() or sha256_file(path) != shard["sha256"]:
        raise DataError(f"{path} is not what {manifest} says; run its stage again")
    return path
