"""Variants of a sample: seeded crops of its screenshot, with what lies whole in them.

As ShowUI crops: width and height are scaled independently; where a side grows, white is put around
the image, else a window is cut out at random; elements that are not whole in it are left out, and
if none is left the image stays as it is.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from shardline.files import sha256_bytes
from shardline.samples import Box, Point, Sample, frame_scale

_SUFFIX = re.compile(r"#v\d+$")

Window = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the image; it may reach beyond it."""


class Variant(NamedTuple):
    """A sample and the window of its only image that it shows; None: its media as they are."""

    sample: Sample
    window: Window | None


def source_id(sample_id: str) -> str:
    """The id of the sample that a variant was made of; any other id as it is."""
    return _SUFFIX.sub("", sample_id)


def variants_of(sample: Sample, options: Mapping[str, Any]) -> Iterator[Variant]:
    """The variants of a sample; one alone keeps the sample's id, several end in ``#v1``, ...

    Args:
        options: of the tokens: ``variants``, ``seed``, and ``crop``: ``min`` and ``max`` of a
            side's scale, or None.
    """
    count = options.get("variants", 1)
    for number in range(1, count + 1):
        name = sample.id if count == 1 else f"{sample.id}#v{number}"
        yield variant_of(sample, name, options)


def variant_of(sample: Sample, name: str, options: Mapping[str, Any]) -> Variant:
    """The variant of this name, the same every time."""
    named = copy.copy(sample)
    named.id = name
    crop = options.get("crop")
    kinds = [medium.kind for medium in sample.media]
    if not crop or kinds != ["image"] or not sample.boxes:
        return Variant(named, None)
    window = _window(sample.media[0].width, sample.media[0].height, crop, options["seed"], named)
    shown = _shown(named, window)
    return Variant(shown, window) if shown.boxes else Variant(named, None)


def cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """What a window shows of pixels uint8 [., ., 3], white where it reaches beyond."""
    left, top, width, height = window
    shown = np.full((height, width, 3), 255, dtype=np.uint8)
    part = pixels[max(top, 0) : top + height, max(left, 0) : left + width]
    below, beside = max(-top, 0), max(-left, 0)
    shown[below : below + part.shape[0], beside : beside + part.shape[1]] = part
    return shown


def _window(width: int, height: int, crop: Mapping[str, Any], seed: int, sample: Sample) -> Window:
    lot = sha256_bytes(f"crop\n{seed}\n{sample.dataset}\n{sample.id}".encode())
    bits = np.random.Philox(key=int(lot[:32], 16)).random_raw(4)
    scale_x, scale_y, place_x, place_y = (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
    left, shown_width = _side(width, crop, scale_x, place_x)
    top, shown_height = _side(height, crop, scale_y, place_y)
    return left, top, shown_width, shown_height


def _side(length: int, crop: Mapping[str, Any], scale: float, place: float) -> tuple[int, int]:
    """Begin and length of a window along one side, from two numbers of 0 to 1."""
    shown = max(1, round(length * (crop["min"] + float(scale) * (crop["max"] - crop["min"]))))
    if shown > length:
        return -((shown - length) // 2), shown
    return int(float(place) * (length - shown + 1)), shown


def _shown(sample: Sample, window: Window) -> Sample:
    """The sample as seen through a window, in pixels of it."""
    left, top, width, height = window
    medium = copy.copy(sample.media[0])
    scales = frame_scale(sample.frame, medium.width, medium.height)
    medium.width, medium.height = width, height

    def moved(values: list[float]) -> list[float]:
        return [  # rounded, or fractions that end at an edge would end a hair outside it
            round(value * scales[place % 2] - (left, top)[place % 2], 6)
            for place, value in enumerate(values)
        ]

    def whole(values: list[float]) -> bool:
        return all(0 <= value <= (width, height)[place % 2] for place, value in enumerate(values))

    boxes = [Box(label=box.label, xyxy=moved(box.xyxy), kind=box.kind) for box in sample.boxes]
    points = [Point(label=point.label, xy=moved(point.xy)) for point in sample.points]
    kept = [number for number, box in enumerate(boxes) if whole(box.xyxy)]
    if len(points) == len(boxes):
        points = [points[number] for number in kept]
    else:
        points = [point for point in points if whole(point.xy)]
    shown = copy.copy(sample)
    shown.media, shown.boxes, shown.points = [medium], [boxes[number] for number in kept], points
    shown.frame = "pixel"
    return shown
