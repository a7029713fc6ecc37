"""A converted benchmark: its samples, and its items (one box of one sample each)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from shardline.errors import DataError
from shardline.files import read_json, read_jsonl, sha256_file
from shardline.samples import Sample


def read_benchmark(manifest: Path) -> dict[str, Sample]:
    """The samples by id, in order.

    Raises:
        DataError: a shard is missing or not the one that the manifest describes, or there is no
            sample.
    """
    samples: dict[str, Sample] = {}
    for shard in read_json(manifest)["shards"]:
        file = manifest.parent / shard["name"]
        if not file.is_file() or sha256_file(file) != shard["sha256"]:
            raise DataError(f"{file}: missing, or changed since {manifest}; convert it again")
        for line in read_jsonl(file):
            samples[line["id"]] = Sample.from_json(line)
    if not samples:
        raise DataError(f"{manifest}: no sample is left to evaluate on; see its rejects")
    return samples


def items(samples: Mapping[str, Sample]) -> Iterator[tuple[str, Sample, int]]:
    """Name (``<sample id>#<box index>``), sample and box index of each item, in order."""
    for name, sample in samples.items():
        for index in range(len(sample.boxes)):
            yield f"{name}#{index}", sample, index
