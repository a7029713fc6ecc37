"""Reject samples that repeat an earlier one, of this dataset or of a dataset earlier in the recipe.

A sample repeats another if its pictures are the same, to the byte or nearly so, and it says nothing
that the other does not: one screenshot asked about two buttons is two samples. ``max_distance`` is
the bits of the perceptual hash that may differ (2: the same screen encoded or scaled again; at 4
begin screens that differ in a menu; 0 only equal hashes). ``same_text: false`` compares the
pictures alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain

import numpy as np

from shardline.decisions import Context, Decision, Verdict
from shardline.perceptual import distance, near_pairs
from shardline.samples import Medium, Sample, Samples

DEFAULTS = {"max_distance": 2, "same_text": True}
CONTEXT = ("earlier",)

Pictures = tuple[str, ...]


class _Kept:
    """What later samples may repeat: found by any of its texts, since samples may be many."""

    def __init__(self) -> None:
        self.samples: list[tuple[str, list[Medium]]] = []
        self.places: dict[bytes, list[int]] = {}

    def add(self, sample: Sample, said: Iterable[bytes]) -> None:
        for digest in said:
            self.places.setdefault(digest, []).append(len(self.samples))
        self.samples.append((sample.id, sample.media))

    def first_with(self, said: Iterable[bytes]) -> tuple[str, list[Medium]] | None:
        """The id and media of the first sample that says all of this."""
        fewest, *others = sorted((self.places.get(digest, []) for digest in said), key=len)
        return next(
            (self.samples[place] for place in fewest if all(_has(one, place) for one in others)),
            None,
        )


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject ``exact_duplicate`` and ``near_duplicate`` samples; the earlier one stays."""
    before = [context.load(name) for name in context.earlier]
    hashes = context.phashes(chain(*before, samples))
    alike = _representatives(hashes, context.options["max_distance"])
    same_text = context.options["same_text"]
    kept = _Kept()
    for sample in chain(*before):
        kept.add(sample, _said(sample, alike, same_text))
    rejected = {}
    for sample in samples:
        said = _said(sample, alike, same_text)
        if original := kept.first_with(said):
            rejected[sample.id] = _decision(sample, *original, hashes)
        else:
            kept.add(sample, said)
    exact = sum(decision.reason == "exact_duplicate" for decision in rejected.values())
    figures = {
        "exact": exact,
        "near": len(rejected) - exact,
        "pictures": len(hashes),
        "flat_pictures": sum(value is None for value in hashes.values()),
    }
    return Verdict(rejected, figures)


def _representatives(hashes: dict[str, int | None], max_distance: int) -> dict[str, str]:
    """For each picture (by sha256) the first one that it is a near copy of; itself if none."""
    first: dict[int, str] = {}
    for sha256, value in hashes.items():
        if value is not None:
            first.setdefault(value, sha256)
    values = np.fromiter(first, np.uint64, len(first))
    chosen = np.arange(len(values))
    earlier, later = near_pairs(values, values, max_distance)
    for i, j in zip(earlier.tolist(), later.tolist(), strict=True):
        if i < j and chosen[i] == i and chosen[j] == j:
            chosen[j] = i
    names = list(first.values())
    of_hash = {value: names[chosen[index]] for index, value in enumerate(first)}
    return {sha256: sha256 if value is None else of_hash[value] for sha256, value in hashes.items()}


def _pictures(sample: Sample, alike: dict[str, str]) -> Pictures:
    return tuple(alike.get(medium.sha256, medium.sha256) for medium in sample.media)


def _said(sample: Sample, alike: dict[str, str], same_text: bool) -> set[bytes]:
    """Digests of the pictures, alone and with each thing that the sample says about them.

    It says the labels of its boxes and the text of its messages. Of samples with pictures only the
    pictures count if not ``same_text``.
    """
    pictures = _pictures(sample, alike)
    texts = [""]
    if same_text or not pictures:
        texts += [box.label for box in sample.boxes]
        for message in sample.messages:
            texts += [part["text"] for part in message["content"] if part["type"] == "text"]
    shown = "\0".join(pictures)
    return {blake2b(f"{shown}\n{text}".encode(), digest_size=16).digest() for text in texts}


def _has(places: list[int], place: int) -> bool:
    """Whether a sorted list has a value."""
    found = bisect_left(places, place)
    return found < len(places) and places[found] == place


def _decision(
    sample: Sample, original: str, media: list[Medium], hashes: dict[str, int | None]
) -> Decision:
    pairs = list(zip(sample.media, media, strict=True))
    exact = all(mine.sha256 == other.sha256 for mine, other in pairs)
    detail = {
        "of": original,
        "paths": [[mine.path, other.path] for mine, other in pairs],
        "distances": [
            0
            if mine.sha256 == other.sha256
            else distance(hashes[mine.sha256], hashes[other.sha256])
            for mine, other in pairs
        ],
    }
    return Decision("exact_duplicate" if exact else "near_duplicate", detail)
