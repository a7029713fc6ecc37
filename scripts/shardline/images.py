"""Decoding image files whole or not at all, upright, within a pixel limit."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION_TAG = 0x0112
TURNED = range(5, 9)  # EXIF orientations that swap width and height
UNDECODABLE = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BadImage(Exception):
    """Bytes that are no image we take: a short reason to count by, and the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_pixels: int | None = None) -> tuple[Image.Image, int]:
    """Decode all of an image file's (first) picture, as stored.

    Returns:
        The picture, and its EXIF orientation 1 to 8 (1: upright).

    Raises:
        BadImage: ``empty_file``, ``too_many_pixels``, or ``corrupt_image`` (which a truncated one
            is too).
    """
    if not data:
        raise BadImage("empty_file", "the file has no bytes")
    with _limit(max_pixels):
        try:
            with Image.open(io.BytesIO(data)) as probe:
                width, height = probe.size
                if max_pixels is not None and width * height > max_pixels:
                    raise BadImage(
                        "too_many_pixels", f"{width}x{height} is over the limit of {max_pixels}"
                    )
                if width < 1 or height < 1:
                    raise BadImage("corrupt_image", f"{width}x{height} pixels")
                probe.verify()  # finds what decoding passes over: PNG checksums
            image = Image.open(io.BytesIO(data))
            image.load()
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
        except UnidentifiedImageError:
            raise BadImage("corrupt_image", "no known image format") from None
        except Image.DecompressionBombError:
            raise BadImage("too_many_pixels", f"over the limit of {max_pixels}") from None
        except UNDECODABLE as error:
            message = re.sub(r"<[^>]*>|0x[0-9a-f]+", "...", str(error))  # no memory addresses
            raise BadImage("corrupt_image", message or type(error).__name__) from None
    return image, orientation if orientation in range(1, 9) else 1


def decode_rgb(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Decode an image file as people see it: upright, transparency on white, 8-bit RGB.

    Raises:
        BadImage: as `decode`.
    """
    image, _ = decode(data, max_pixels)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@contextlib.contextmanager
def _limit(max_pixels: int | None) -> Iterator[None]:
    """Let Pillow refuse more than ``max_pixels``, also in later frames, without its warnings."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
