"""Reading boxes and points in the frame a dataset declares; what does not fit is rejected.

Nothing is guessed from the numbers: a box of ``[left, top, width, height]`` in a dataset declared
``pixel_xyxy`` is rejected wherever it can be told, for a guess would be wrong in silence elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from shardline.errors import ConfigError
from shardline.rows import Rejection, brief
from shardline.samples import Frame, frame_scale

FRAMES: dict[str, tuple[Frame, bool]] = {
    "pixel_xyxy": ("pixel", False),
    "pixel_xywh": ("pixel", True),
    "unit_xyxy": ("unit", False),
    "unit_xywh": ("unit", True),
    "per_mille_xyxy": ("per_mille", False),
}
CLIP_PIXELS = 2.0  # annotators' rounding goes this far over an edge; further out is another image
AGREE_PIXELS = 2.0  # a box stated twice may differ by its rounding
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_frame(name: str) -> tuple[Frame, bool]:
    """The frame and whether boxes are left, top, width, height (else two corners).

    Raises:
        ConfigError: there is no such frame.
    """
    if name not in FRAMES:
        raise ConfigError(f"frame: {brief(name)} is none of {', '.join(FRAMES)}")
    return FRAMES[name]


def parse_numbers(value: Any, count: int) -> list[float]:
    """``count`` finite numbers from a list of numbers or of numbers as text, or its JSON text.

    Raises:
        Rejection: anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Rejection("bad_box", f"{brief(value)} is no list of numbers") from None
    if not isinstance(value, list | tuple):
        raise Rejection("bad_box", f"{brief(value)} is no list of numbers")
    if len(value) != count:
        raise Rejection("bad_box", f"{brief(value)} has {len(value)} numbers, not {count}")
    return [_number(item, value) for item in value]


def check_box(value: Any, frame_name: str, width: int, height: int) -> tuple[list[float], bool]:
    """A source's box as ``[left, top, right, bottom]`` in its own frame, inside the image.

    Args:
        value: the box as the source has it.
        frame_name: a key of `FRAMES`.
        width: the image's true width in pixels.
        height: the image's true height in pixels.

    Returns:
        The corners, and whether an edge up to `CLIP_PIXELS` outside was moved onto the image's.

    Raises:
        Rejection: no four finite numbers, swapped corners, no area, or further outside.
    """
    frame, is_xywh = parse_frame(frame_name)
    left, top, right, bottom = parse_numbers(value, 4)
    if is_xywh:
        if right < 0 or bottom < 0:
            raise Rejection("negative_size", f"{brief(value)} as {frame_name}")
        right, bottom = left + right, top + bottom
    if right < left or bottom < top:
        raise Rejection("swapped_corners", f"{brief(value)} as {frame_name}")
    scale_x, scale_y = frame_scale(frame, width, height)
    limit_x, limit_y = width / scale_x, height / scale_y
    outside = max(
        -left * scale_x, -top * scale_y, (right - limit_x) * scale_x, (bottom - limit_y) * scale_y
    )
    if outside > CLIP_PIXELS:
        raise Rejection(
            "outside_image",
            f"{brief(value)} as {frame_name}: {outside:.1f} px outside the {width}x{height} image",
        )
    corners = [max(left, 0.0), max(top, 0.0), min(right, limit_x), min(bottom, limit_y)]
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise Rejection("zero_area", f"{brief(value)} as {frame_name} on a {width}x{height} image")
    return corners, outside > 0


def check_agreement(
    corners: list[float], frame_name: str, pixel_box: Any, width: int, height: int
) -> None:
    """See that a box the source states a second time, in pixels, is the same box.

    Raises:
        Rejection: they differ by more than `AGREE_PIXELS` on this image.
    """
    frame, is_xywh = parse_frame(frame_name)
    left, top, right, bottom = parse_numbers(pixel_box, 4)
    if is_xywh:
        right, bottom = left + right, top + bottom
    scales = frame_scale(frame, width, height)
    ours = [value * scales[index % 2] for index, value in enumerate(corners)]
    difference = max(abs(a - b) for a, b in zip(ours, (left, top, right, bottom), strict=True))
    if difference > AGREE_PIXELS:
        raise Rejection(
            "boxes_disagree",
            f"the box in pixels {brief(pixel_box)} and the relative one, "
            f"{[round(value, 1) for value in ours]} on the {width}x{height} image, "
            f"differ by {difference:.1f} px",
        )


def check_point(value: Any, corners: list[float]) -> tuple[list[float], bool]:
    """The point to aim at in a box: the source's if it lies inside, else the centre.

    Returns:
        ``[x, y]`` in the frame of ``corners``, and whether a point the source gave was replaced.
    """
    left, top, right, bottom = corners
    centre = [(left + right) / 2, (top + bottom) / 2]
    if value is None:
        return centre, False
    try:
        x, y = parse_numbers(value, 2)
    except Rejection:
        return centre, True
    inside = left <= x <= right and top <= y <= bottom
    return ([x, y], False) if inside else (centre, True)


def _number(item: Any, whole: Any) -> float:
    """One finite number, also written as text."""
    if isinstance(item, str) and NUMBER.fullmatch(item.strip()):
        item = float(item)
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise Rejection("bad_box", f"{brief(item)} in {brief(whole)} is no number")
    try:
        number = float(item)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Rejection("bad_box", f"{brief(whole)} is not finite")
    return number
