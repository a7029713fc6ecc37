"""What a classifier learns from: the contents of labelled images, divided into three parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.classifier.pixels import seed_of
from shardline.errors import DataError
from shardline.files import read_json, read_jsonl
from shardline.samples import Sample

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The contents of labelled images, sorted by their hashes.

    ``targets`` are 1 for good ones and 0 for others. ``counts`` are of images by label, and
    ``contradicting`` is the number of contents that are both and therefore left out.
    """

    sha256: list[str]
    paths: list[str]
    targets: list[int]
    counts: dict[str, int]
    contradicting: int


def read_labelled(converted: Path, good: str) -> Labelled:
    """The images of a converted dataset whose samples have ``meta.label``.

    Equal files are one content: copies would let the test see what was learnt from.

    Args:
        converted: its manifest.
        good: label of the good images; those with any other label are bad.

    Raises:
        DataError: a sample without a label, or not both good and bad images.
    """
    counts: Counter[str] = Counter()
    targets: dict[str, set[int]] = {}
    paths: dict[str, str] = {}
    for shard in read_json(converted)["shards"]:
        for row in read_jsonl(converted.parent / shard["name"]):
            sample = Sample.from_json(row)
            if "label" not in sample.meta:
                raise DataError(
                    f"{sample.id} has no meta.label; a classifier learns from a dataset of "
                    "labelled images, such as those of format labelled_images"
                )
            label = str(sample.meta["label"])
            for medium in sample.media:
                if medium.kind == "image":
                    counts[label] += 1
                    targets.setdefault(medium.sha256, set()).add(int(label == good))
                    paths.setdefault(medium.sha256, medium.path)
    clear = sorted(sha256 for sha256, found in targets.items() if len(found) == 1)
    found = Labelled(
        sha256=clear,
        paths=[paths[sha256] for sha256 in clear],
        targets=[min(targets[sha256]) for sha256 in clear],
        counts=dict(sorted(counts.items())),
        contradicting=len(targets) - len(clear),
    )
    if set(found.targets) != {0, 1}:
        labels = ", ".join(f"{label!r} ({count})" for label, count in found.counts.items())
        left_out = f"; {found.contradicting} are both and count as neither"
        raise DataError(
            f"{converted.parent.name}: a classifier needs good and bad images; labels are "
            f"{labels or 'none'}, and {good!r} is the good one" + left_out * found.contradicting
        )
    return found


def split(data: Labelled, seed: int) -> dict[str, list[int]]:
    """Divide contents 8 : 1 : 1 into train, validation and test, each class for itself.

    Of n contents of a class, n / 10 rounded to the nearest (a half up) are for validation and as
    many for the test, the rest is to train on: none, none and 4 of 4; 1, 1 and 3 of 5. Which ones
    follows from the seed and their hashes, whatever the files are called.

    Returns:
        Positions in ``data``, ascending, by part.
    """
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for target in (0, 1):
        members = [place for place, found in enumerate(data.targets) if found == target]
        members.sort(key=lambda place: seed_of(seed, "split", data.sha256[place]))
        tenth = (len(members) + 5) // 10
        parts["validation"] += members[:tenth]
        parts["test"] += members[tenth : 2 * tenth]
        parts["train"] += members[2 * tenth :]
    return {part: sorted(members) for part, members in parts.items()}


def part_counts(data: Labelled, parts: dict[str, list[int]]) -> dict[str, Any]:
    """The number of bad and good contents in each part."""
    counts = {}
    for part, members in parts.items():
        good = sum(data.targets[place] for place in members)
        counts[part] = {"bad": len(members) - good, "good": good}
    return counts
