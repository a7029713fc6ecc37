"""The overlap gate: training images that are (near-)copies of a benchmark's images.

A score on a screen the model was trained on means nothing. Up to ``limit`` training images may
match; their samples are rejected. More stop the recipe: then the training data, not a few strays,
overlaps. Two images match if their bytes are equal or their perceptual hashes differ in at most
``max_distance`` bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shardline.decisions import Context, Decision, Verdict
from shardline.errors import GateError
from shardline.perceptual import distance, near_pairs
from shardline.samples import Medium, Sample

DEFAULTS = {"max_distance": 2, "limit": 0}
CONTEXT = ("benchmarks",)
EXAMPLES = 5  # pairs that the gate names


def judge(samples: list[Sample], context: Context) -> Verdict:
    """Reject samples with an image of a benchmark, as ``overlap``.

    Raises:
        GateError: more than ``limit`` images match.
    """
    tests = [
        (name, sample, medium)
        for name in context.benchmarks
        for sample in context.load(name)
        for medium in sample.media
    ]
    hashes = context.phashes([*samples, *(sample for _, sample, _ in tests)])
    matches = _matches(_unique(samples), tests, hashes, context.options["max_distance"])
    if len(matches) > context.options["limit"]:
        raise GateError(_message(context, matches))
    rejected = {
        sample.id: Decision("overlap", matches[medium.sha256])
        for sample in samples
        for medium in sample.media
        if medium.sha256 in matches
    }
    figures = {
        "benchmarks": context.benchmarks,
        "benchmark_images": len({medium.sha256 for _, _, medium in tests}),
        "training_images": len(_unique(samples)),
        "matching_images": len(matches),
    }
    return Verdict(rejected, figures)


def _unique(samples: list[Sample]) -> dict[str, Medium]:
    """Each picture once, by sha256, in order."""
    unique: dict[str, Medium] = {}
    for sample in samples:
        for medium in sample.media:
            unique.setdefault(medium.sha256, medium)
    return unique


def _matches(
    training: dict[str, Medium],
    tests: list[tuple[str, Sample, Medium]],
    hashes: dict[str, int | None],
    max_distance: int,
) -> dict[str, dict[str, Any]]:
    """For each matching training image (by sha256) the nearest benchmark image."""
    by_sha256: dict[str, int] = {}
    by_hash: dict[int, int] = {}
    for index, (_, _, medium) in enumerate(tests):
        by_sha256.setdefault(medium.sha256, index)
        if (value := hashes.get(medium.sha256)) is not None:
            by_hash.setdefault(value, index)
    near: dict[int, list[tuple[int, int]]] = {}
    own = [value for sha256 in training if (value := hashes.get(sha256)) is not None]
    left, right = np.unique(np.array(own, np.uint64)), np.fromiter(by_hash, np.uint64, len(by_hash))
    for i, j in zip(*near_pairs(left, right, max_distance), strict=True):
        mine, other = int(left[i]), int(right[j])
        near.setdefault(mine, []).append((distance(mine, other), by_hash[other]))
    matches = {}
    for sha256, medium in training.items():
        if sha256 in by_sha256:
            bits, index = 0, by_sha256[sha256]
        elif found := near.get(hashes.get(sha256)):
            bits, index = min(found)
        else:
            continue
        name, sample, other = tests[index]
        matches[sha256] = {
            "path": medium.path,
            "benchmark": name,
            "of": sample.id,
            "benchmark_path": other.path,
            "distance": bits,
            "exact": sha256 in by_sha256,
        }
    return matches


def _message(context: Context, matches: dict[str, dict[str, Any]]) -> str:
    pairs = "".join(
        f"\n  {match['path']} = {match['benchmark']} {match['benchmark_path']} "
        + ("(the same file)" if match["exact"] else f"({match['distance']} of 64 bits differ)")
        for match in list(matches.values())[:EXAMPLES]
    )
    limit = context.options["limit"]
    return (
        f"overlap: {len(matches)} images of training dataset {context.dataset} are copies or near "
        f"copies of benchmark images, over the limit of {limit}:{pairs}\n"
        "Take them out of the training data or do not evaluate on that benchmark. If these few are "
        f"to be rejected instead, set the filter's limit: overlap: {{limit: {len(matches)}}}"
    )
