"""Image files as arrays: what `decode_rgb` makes of them, faster where a file is a plain one.

Torchvision writes RGB straight into an array; Pillow keeps four bytes a pixel and copies them twice
on the way to one. Both use libpng and libjpeg-turbo: the pixels are the same.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from shardline.image_files import UNDECODABLE
from shardline.images import ORIENTATION_TAG, decode_rgb

PNG_BITS, PNG_COLOURS, PNG_INTERLACED = 24, 25, 28  # where a PNG's header says so
RGB8 = (8, 2)  # bits and colour type
ORIENTATION_IN_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


def decode_pixels(data: bytes) -> np.ndarray:
    """Decode an image file as `decode_rgb` does: uint8 [height, width, 3], writable.

    Raises:
        BadImage: as `decode_rgb`.
    """
    if kind := _plain_kind(data):
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg, decode_png

        decoder = decode_jpeg if kind == "JPEG" else decode_png
        try:
            file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return decoder(file, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()
        except RuntimeError:
            pass  # Pillow may read it nevertheless, or says what is wrong
    return np.array(decode_rgb(data))


def _plain_kind(data: bytes) -> str:
    """``JPEG`` or ``PNG`` for an upright 8-bit RGB file of one picture without transparency."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.mode != "RGB":
            return ""
        if image.format == "JPEG":
            return "" if image.getexif().get(ORIENTATION_TAG, 1) != 1 else "JPEG"
    except UNDECODABLE:
        return ""
    plain = (data[PNG_BITS], data[PNG_COLOURS]) == RGB8 and not data[PNG_INTERLACED]
    single = not image.has_transparency_data and getattr(image, "n_frames", 1) == 1
    # Searched for, since Pillow decodes all of a PNG before it says how it lies.
    turned = any(mark in data for mark in ORIENTATION_IN_PNG)
    return "PNG" if image.format == "PNG" and plain and single and not turned else ""
