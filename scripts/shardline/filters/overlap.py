"""The overlap gate: training images that are (near-)copies of a benchmark's images.

A score on a screen the model was trained on means nothing. Up to ``limit`` training images may
match; their samples are rejected. More stop the recipe: then the training data, not a few strays,
overlaps. Two images match if their bytes are equal, or if their perceptual hashes differ in at most
``max_distance`` bits and no part of the picture differs much: hashes see only coarse brightness, so
two screens of one application can have the same hash though every button lies elsewhere.
"""

from __future__ import annotations

import functools
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shardline.decisions import Context, Decision, Verdict
from shardline.embedded import read_medium
from shardline.errors import GateError
from shardline.images import decode_rgb
from shardline.perceptual import distance, near_pairs
from shardline.samples import Medium, Samples

DEFAULTS = {"max_distance": 8, "limit": 0}
PARTS = 16  # a picture is compared in PARTS × PARTS parts
LEVELS = 24  # of 256: how much a part of a near copy may differ in any colour
CONTEXT = ("benchmarks",)
EXAMPLES = 5  # pairs that the gate names


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject samples with an image of a benchmark, as ``overlap``.

    Raises:
        GateError: more than ``limit`` images match.
    """
    tests = [
        (name, sample.id, medium)
        for name in context.benchmarks
        for sample in context.load(name)
        for medium in sample.media
    ]
    training = _unique(samples)
    compared = chain(samples, *map(context.load, context.benchmarks)) if tests else ()
    matches = _matches(training, tests, context.phashes(compared), context)
    if len(matches) > context.options["limit"]:
        raise GateError(_message(context, matches))
    rejected = {
        sample.id: Decision("overlap", matches[medium.sha256])
        for sample in (samples if matches else ())
        for medium in sample.media
        if medium.sha256 in matches
    }
    figures = {
        "benchmarks": context.benchmarks,
        "benchmark_images": len({medium.sha256 for _, _, medium in tests}),
        "training_images": len(training),
        "matching_images": len(matches),
    }
    return Verdict(rejected, figures)


def _unique(samples: Samples) -> dict[str, Medium]:
    """Each picture once, by sha256, in order."""
    unique: dict[str, Medium] = {}
    for sample in samples:
        for medium in sample.media:
            unique.setdefault(medium.sha256, medium)
    return unique


def _matches(
    training: dict[str, Medium],
    tests: list[tuple[str, str, Medium]],
    hashes: dict[str, int | None],
    context: Context,
) -> dict[str, dict[str, Any]]:
    """For each matching training image (by sha256) the nearest benchmark image."""
    by_sha256: dict[str, int] = {}
    by_hash: dict[int, list[int]] = {}
    for index, (_, _, medium) in enumerate(tests):
        if medium.sha256 not in by_sha256:
            by_sha256[medium.sha256] = index
            if (value := hashes.get(medium.sha256)) is not None:
                by_hash.setdefault(value, []).append(index)
    own = [value for sha256 in training if (value := hashes.get(sha256)) is not None]
    left, right = np.unique(np.array(own, np.uint64)), np.fromiter(by_hash, np.uint64, len(by_hash))
    near: dict[int, list[tuple[int, int]]] = {}
    pairs = near_pairs(left, right, context.options["max_distance"])
    for i, j in zip(*pairs, strict=True):
        mine, other = int(left[i]), int(right[j])
        bits = distance(mine, other)
        near.setdefault(mine, []).extend((bits, index) for index in by_hash[other])
    folder = context.raw / context.dataset

    def is_copy(medium: Medium, index: int) -> bool:
        name, _, other = tests[index]
        return _looks_the_same(folder / medium.path, context.raw / name / other.path)

    matches = {}
    for sha256, medium in training.items():
        if sha256 in by_sha256:
            bits, index = 0, by_sha256[sha256]
        else:
            candidates = sorted(near.get(hashes.get(sha256), []))
            found = next((pair for pair in candidates if is_copy(medium, pair[1])), None)
            if found is None:
                continue
            bits, index = found
        name, sample_id, other = tests[index]
        matches[sha256] = {
            "path": medium.path,
            "benchmark": name,
            "of": sample_id,
            "benchmark_path": other.path,
            "distance": bits,
            "exact": sha256 in by_sha256,
        }
    return matches


def _looks_the_same(first: Path, second: Path) -> bool:
    """Whether no part of two pictures differs by more than `LEVELS` in any colour."""
    return int(np.abs(_parts(first) - _parts(second)).max()) <= LEVELS


@functools.lru_cache(maxsize=4096)
def _parts(path: Path) -> np.ndarray:
    """Colour of every part of a picture, int16 [PARTS, PARTS, 3].

    Bilinear, since Pillow's box filter takes whole pixels: small pictures differ from their copies.
    """
    image = decode_rgb(read_medium(path))
    return np.asarray(image.resize((PARTS, PARTS), Image.Resampling.BILINEAR)).astype(np.int16)


def _message(context: Context, matches: dict[str, dict[str, Any]]) -> str:
    pairs = "".join(
        f"\n  {match['path']} = {match['benchmark']} {match['benchmark_path']} "
        + ("(the same file)" if match["exact"] else f"({match['distance']} of 64 bits differ)")
        for match in list(matches.values())[:EXAMPLES]
    )
    limit = context.options["limit"]
    return (
        f"overlap: near copies of benchmark images in training dataset {context.dataset}: "
        f"{len(matches)}, over the limit of {limit}:{pairs}\n"
        "Take them out of the training data or do not evaluate on that benchmark. If these few are "
        f"to be rejected instead, set the filter's limit: overlap: {{limit: {len(matches)}}}"
    )
