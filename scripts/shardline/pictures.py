"""The media of a sample as pictures: an image is one, a video the frames of it that are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from shardline.errors import DataError
from shardline.frames import frame_numbers, read_frames
from shardline.images import BadImage
from shardline.pixels import decode_pixels
from shardline.rows import Rejection
from shardline.samples import Medium, Sample


class Pictures(NamedTuple):
    """One medium, upright."""

    frames: list[np.ndarray]
    """Pixels uint8 [height, width, 3]: one of an image, the sampled ones of a video."""
    interval: float = 0.0
    """Seconds from one sampled frame to the next on average; 0 for an image."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width, _ = self.frames[0].shape
        return width, height


def sampled(sample: Sample, number: int, options: Mapping[str, Any]) -> tuple[list[int], float]:
    """Which frames of a sample's video are taken, and their `Pictures.interval`.

    Args:
        options: of the tokens; ``video`` has those of `frame_numbers`.

    Raises:
        DataError: the sample does not say how long its video is.
    """
    facts = sample.meta.get("media") or []
    facts = facts[number] if number < len(facts) else {}
    if not facts.get("frames") or not facts.get("duration"):
        raise DataError(f"{sample.id}: frames and duration of video {number} are not in its meta")
    numbers = frame_numbers(facts["frames"], facts["duration"], options["video"])
    return numbers, facts["duration"] / len(numbers)


def media_grids(sample: Sample, family: ModuleType, options: Mapping[str, Any]) -> list[Any]:
    """The grid of each medium of a sample, from the sizes that it states: nothing is decoded.

    Raises:
        SampleError: the family refuses a medium.
        DataError: as `sampled`.
    """
    grids = []
    for number, medium in enumerate(sample.media):
        frames = None
        if medium.kind == "video":
            frames = len(sampled(sample, number, options)[0])
        grids.append(family.media_grid(medium.width, medium.height, frames, options))
    return grids


def decode_medium(sample: Sample, number: int, data: bytes, options: Mapping[str, Any]) -> Pictures:
    """Decode medium ``number`` of a sample from the bytes of its file.

    Raises:
        DataError: it does not decode, or has not the size that the sample states.
    """
    medium: Medium = sample.media[number]
    try:
        if medium.kind == "video":
            numbers, interval = sampled(sample, number, options)
            pictures = Pictures(read_frames(data, numbers), interval)
        else:
            pictures = Pictures([decode_pixels(data)])
    except (BadImage, Rejection) as problem:
        raise DataError(f"{medium.kind} {number} of {sample.id}: {problem}") from None
    for frame in pictures.frames:
        height, width, _ = frame.shape
        if (width, height) != (medium.width, medium.height):
            raise DataError(
                f"{medium.kind} {number} of {sample.id} is {width}x{height}, "
                f"its sample says {medium.width}x{medium.height}"
            )
    return pictures
