"""Decoding image files whole or not at all, upright, within a pixel limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from shardline.embedded import read_medium
from shardline.errors import DataError
from shardline.image_files import UNDECODABLE, BadImage, open_image, told

IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".jxl", ".jp2"),  # the former is rejected, not passed over
)
ORIENTATION_TAG = 0x0112
UPRIGHT = {  # what to do with the stored picture for each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = range(5, 9)  # EXIF orientations that swap width and height
JPEGS = ("JPEG", "MPO")  # further pictures of an MPO are other views, or help to show the first
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # pages of a TIFF count as frames, too


class Probe(NamedTuple):
    """An image file that decodes: its size upright, EXIF orientation 1 to 8, number of frames."""

    width: int
    height: int
    orientation: int
    frames: int


def probe(data: bytes, max_pixels: int | None = None) -> Probe:
    """Decode all of an image file, only to see that it can be.

    A JPEG is decoded at an eighth of its size: that reads all its bytes, and saves most of the
    arithmetic. It has no checksum: bytes that were altered may give other colours and no error,
    here as at full size. Of an animation, frames beyond ``max_pixels`` in all are not looked at:
    only the first is ever used.

    Raises:
        BadImage: as `decode`.
    """
    with told(data, max_pixels):
        image = open_image(data, max_pixels)
        width, height = image.size
        if image.format in JPEGS:
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        if image.format == "HEIF":
            width, height = image.size  # the header's size can be another one
        orientation = _orientation(image)
        frames = 1 if image.format in JPEGS else getattr(image, "n_frames", 1)
        last = frames if max_pixels is None else min(frames, max_pixels // (width * height))
        for frame in range(1, last if image.format in ANIMATED else 1):
            image.seek(frame)
            image.load()
    if orientation in TURNED:
        width, height = height, width
    return Probe(width, height, orientation, frames)


def decode(data: bytes, max_pixels: int | None = None) -> tuple[Image.Image, int]:
    """Decode all of an image file's (first) picture, as stored.

    Returns:
        The picture, and its EXIF orientation 1 to 8 (1: upright).

    Raises:
        BadImage: ``empty_file``, ``too_many_pixels``, ``decompression_bomb`` (of its texts),
            ``unsupported_image``, or ``corrupt_image`` (which a truncated one is too).
    """
    with told(data, max_pixels):
        image = open_image(data, max_pixels)
        image.load()
        return image, _orientation(image)


def decode_audited(path: str | Path) -> Image.Image:
    """Decode an image that passed the audit, as `decode_rgb`.

    Raises:
        DataError: the file is gone or is no image any more.
    """
    try:
        return decode_rgb(read_medium(path))
    except (FileNotFoundError, BadImage) as problem:
        raise DataError(f"{path}: {problem}; it was there and whole when it was audited") from None


def decode_rgb(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Decode an image file as people see it: upright, transparency on white, 8-bit RGB.

    Raises:
        BadImage: as `decode`.
    """
    image, orientation = decode(data, max_pixels)
    with told(data, max_pixels):
        image = _as_rgb(image)
    return image.transpose(UPRIGHT[orientation]) if orientation > 1 else image


def upright(
    values: Sequence[float], orientation: int, width: float, height: float
) -> tuple[float, ...]:
    """Alternating x, y values on the picture as stored, as they are on the picture upright.

    Args:
        values: coordinates.
        orientation: EXIF orientation, 1 to 8.
        width, height: of the picture as stored, in the unit of ``values``.
    """
    turned = []
    for stored_x, stored_y in zip(values[::2], values[1::2], strict=True):
        x = width - stored_x if orientation in (2, 3, 7, 8) else stored_x
        y = height - stored_y if orientation in (3, 4, 6, 7) else stored_y
        turned += [y, x] if orientation in TURNED else [x, y]
    return tuple(turned)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, grey
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF (or XMP) orientation; 1 where it is absent, nonsense or cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except UNDECODABLE:
        return 1
    return int(value) if value in range(1, 9) else 1
