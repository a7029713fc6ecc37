"""The pictures of a sample at the size at which the model sees them, and what is drawn on them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from shardline.png import encode_png
from shardline.reporting.pictures import Scene, draw_box, draw_point
from shardline.samples import Sample, to_unit
from shardline.token_reader import StoredSample


def scenes_of(sample: Sample, stored: StoredSample, family: ModuleType) -> list[Scene]:
    """One scene an image and one a frame of a video, in order; several have titles."""
    scenes = []
    media = zip(sample.media, stored.images, stored.grids, strict=True)
    for number, (medium, image, grid) in enumerate(media, start=1):
        name = f"{medium.kind} {number}" if len(sample.media) > 1 else ""
        if medium.kind != "video":
            scenes.append(_scene(image, name))
            continue
        height = family.seen_size(grid)[1]
        for frame, top in enumerate(range(0, image.shape[0], height), start=1):
            title = ", ".join(filter(None, [name, f"frame {frame}"]))
            scenes.append(_scene(image[top : top + height], title))
    return scenes


def draw(
    scene: Scene,
    sample: Sample,
    taught: Sequence[Sequence[float]],
    family: ModuleType,
    options: Mapping[str, Any],
) -> None:
    """Draw the boxes of the data, and the points or boxes that the answers teach.

    Args:
        scene: of the sample's first image.
        taught: in fractions of that image.
        options: of the tokens.
    """
    medium = sample.media[0]

    def placed(values: Sequence[float]) -> list[float]:
        return family.on_picture(values, medium.width, medium.height, options)

    for number, box in enumerate(sample.boxes, start=1):
        unit = to_unit(box.xyxy, sample.frame, medium.width, medium.height)
        draw_box(scene, "target", placed(unit), f"{number}: {box.label}")
    for number, values in enumerate(taught, start=1):
        if len(values) == 4:
            draw_box(scene, "taught", placed(values), f"{number}: the box of an answer")
        else:
            draw_point(scene, "taught", placed(values), f"{number}: the point of an answer")


def agreement(sample: Sample, taught: Sequence[Sequence[float]]) -> str:
    """Whether what is taught lies in the boxes that are asked for; of a box, its centre."""
    if len(taught) != len(sample.boxes):
        return f"{len(taught)} read in the answers, {len(sample.boxes)} boxes"
    medium = sample.media[0]
    inside = 0
    for values, box in zip(taught, sample.boxes, strict=True):
        x, y = centre(values)
        left, top, right, bottom = to_unit(box.xyxy, sample.frame, medium.width, medium.height)
        inside += left <= x <= right and top <= y <= bottom
    return f"{inside} of {len(taught)} in their box"


def centre(values: Sequence[float]) -> tuple[float, float]:
    """A point itself, or the middle of a box."""
    return (values[0] + values[-2]) / 2, (values[1] + values[-1]) / 2


def _scene(image: np.ndarray, title: str) -> Scene:
    """Pixels as a scene, losslessly: these are what the model gets."""
    data = base64.b64encode(encode_png(image)).decode()
    height, width = image.shape[:2]
    return Scene(image=f"data:image/png;base64,{data}", width=width, height=height, title=title)
