"""Reading what a chain of filters decided about each sample, and what it judged by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.errors import DataError
from shardline.files import read_json, read_jsonl, sha256_file
from shardline.samples import Sample
from shardline.scoring import Scores, read_scores

Json = dict[str, Any]


def read_decided(decisions: Path, converted: Path) -> Iterator[tuple[Sample, Json]]:
    """Yield every sample of a dataset, in order, with the line that was written down about it.

    Args:
        decisions: the summary; its lists lie beside it.
        converted: folder of the converted dataset.

    Raises:
        DataError: a list or a converted shard is missing or another one than the summary says.
    """
    entries = read_json(decisions)["shards"]
    for source in sorted({entry["source"] for entry in entries}):
        lines: dict[str, Json] = {}
        for entry in (entry for entry in entries if entry["source"] == source):
            file = decisions.with_name(f"decisions-{entry['shard']}.jsonl")
            for path, sha256 in (
                (file, entry["sha256"]),
                (converted / source, entry["source_sha256"]),
            ):
                if not path.is_file() or sha256_file(path) != sha256:
                    raise DataError(f"{path} is not what {decisions} says; run the filters again")
            lines |= {line["id"]: line for line in read_jsonl(file)}
        for row in read_jsonl(converted / source):
            yield Sample.from_json(row), lines[row["id"]]


def judged_by(position: int, line: Json, filters: list[Json]) -> bool:
    """Whether a sample got as far as the filter at ``position`` of the chain."""
    names = [entry["name"] for entry in filters]
    return line["kept"] or names.index(line["filter"]) >= position


def scores_of(entry: Json, dataset: str, results: Path) -> Scores:
    """The image scores that a filter judged by; empty where it judges by none."""
    if not (name := entry.get("scores")):
        return {}
    return read_scores(results / "scores" / dataset / name / "manifest.json")


def threshold_of(entry: Json) -> float | None:
    """The score from which on a filter accepts; None where it goes by none."""
    places = (entry["figures"], entry["options"])
    return next((place["threshold"] for place in places if "threshold" in place), None)
