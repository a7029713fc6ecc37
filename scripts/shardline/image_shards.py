"""Writing the kept samples of a dataset with their media into image shards, and listing those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.embedded import read_medium
from shardline.errors import DataError
from shardline.files import (
    canonical_json,
    file_entry,
    read_json,
    read_jsonl,
    sha256_bytes,
    sha256_file,
    write_json,
    write_jsonl,
)
from shardline.samples import Sample
from shardline.series import extensions
from shardline.shards import write_shard

KEY_DIGITS = 16
MATCHES = 200  # rejected samples a filter that the report lists; the rejects have all


def write_image_shard(
    *, dataset: str, shard: str, decisions: Path, converted: Path, raw: Path, output: Path
) -> None:
    """Write one shard: per kept sample ``<key>.json`` and its media's bytes as they are in ``raw``.

    Args:
        dataset: its name.
        shard: its name in ``decisions``, e.g. ``00000-png``.
        decisions: summary of the decisions.
        converted: folder of the converted dataset.
        raw: folder of the raw dataset.
        output: the tar.

    Raises:
        DataError: no such shard, or an input changed since the decisions were made.
    """
    summary = read_json(decisions)
    entries = {entry["shard"]: entry for entry in summary["shards"]}
    if summary["dataset"] != dataset or shard not in entries:
        raise DataError(f"{decisions} has no shard {shard!r} of {dataset}")
    entry = entries[shard]
    lines = _read_lines(decisions, entry)
    source = converted / entry["source"]
    if not source.is_file() or sha256_file(source) != entry["source_sha256"]:
        raise DataError(f"{source} changed since {decisions} was made; run the filters again")
    wanted = {line["id"] for line in lines if line["kept"]}
    samples = (Sample.from_json(row) for row in read_jsonl(source) if row["id"] in wanted)
    written = write_shard(output, (_members(sample, raw) for sample in samples))
    if len(written) != entry["kept"]:
        raise DataError(f"{output}: {len(written)} samples written, {entry['kept']} were kept")


def sample_key(sample_id: str) -> str:
    """The key of a sample in image and token shards: hex digits of its id's sha256."""
    return sha256_bytes(sample_id.encode())[:KEY_DIGITS]


def write_filter_manifest(
    *, decisions: Path, folder: Path, manifest: Path, report: Path, rejects: Path
) -> dict[str, Any]:
    """List a variant's image shards, what its filters did, and every rejected sample.

    A shard of which no sample was kept is not listed: readers stumble over an empty tar.

    Returns:
        The manifest.

    Raises:
        DataError: a shard or a list of decisions is missing or is another one.
    """
    summary = read_json(decisions)
    dataset = summary["dataset"]
    lines = [line for entry in summary["shards"] for line in _read_lines(decisions, entry)]
    rejected = [line for line in lines if not line["kept"]]
    write_jsonl(rejects, (_reject(dataset, line) for line in rejected))
    write_json(report, _report(summary, rejected))
    content = {
        "stage": "filter",
        "dataset": dataset,
        "variant": summary["variant"],
        "samples": {
            "in": len(lines),
            "kept": len(lines) - len(rejected),
            "rejected": len(rejected),
        },
        "elements": {"kept": sum(entry["elements_kept"] for entry in summary["shards"])},
        "reasons": dict(Counter(line["reason"] for line in rejected)),
        "shards": [_shard(folder, entry) for entry in summary["shards"] if entry["kept"]],
        "filters": summary["filters"],
        "versions": summary["versions"],
    }
    if content["samples"] != summary["samples"]:
        raise DataError(f"{decisions}: its lists hold {content['samples']}, not as it says itself")
    write_json(manifest, content)
    return content


def _read_lines(decisions: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    path = decisions.with_name(f"decisions-{entry['shard']}.jsonl")
    if not path.is_file() or sha256_file(path) != entry["sha256"]:
        raise DataError(f"{path} is missing or not the one of {decisions}; run the filters again")
    return list(read_jsonl(path))


def _members(sample: Sample, raw: Path) -> tuple[str, list[tuple[str, bytes]]]:
    content = {
        "id": sample.id,
        "dataset": sample.dataset,
        "sample": canonical_json(sample.to_json()),
    }
    members = [("json", canonical_json(content).encode())]
    for number, (medium, extension) in enumerate(
        zip(sample.media, extensions(sample), strict=True)
    ):
        path = raw / medium.path
        try:
            data = read_medium(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            data = b""
        if sha256_bytes(data) != medium.sha256:
            raise DataError(
                f"{path} changed since {sample.dataset} was converted; convert it again"
            )
        members.append((f"{number}.{extension}", data))
    return sample_key(sample.id), members


def _shard(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"shard-{entry['shard']}.tar"
    if not path.is_file():
        raise DataError(f"{path}: no such shard")
    return {**file_entry(path), "samples": entry["kept"]}


def _reject(dataset: str, line: dict[str, Any]) -> dict[str, Any]:
    detail = ", ".join(f"{key} {value}" for key, value in line["detail"].items())
    return {
        "dataset": dataset,
        "row": line["id"].removeprefix(f"{dataset}:"),
        "stage": "filter",
        "reason": line["reason"],
        "detail": f"{line['filter']}: {detail}",
    }


def _report(summary: dict[str, Any], rejected: list[dict[str, Any]]) -> dict[str, Any]:
    """What each filter did, with the first of what it found."""
    filters = [
        {**entry, "matches": list(_matches(entry["name"], rejected))[:MATCHES]}
        for entry in summary["filters"]
    ]
    keys = ("dataset", "variant", "samples", "groups")
    return {"stage": "filter", **{key: summary[key] for key in keys}, "filters": filters}


def _matches(name: str, rejected: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (
        {"id": line["id"], "reason": line["reason"], **line["detail"]}
        for line in rejected
        if line["filter"] == name
    )
