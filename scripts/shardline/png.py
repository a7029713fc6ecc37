"""Lossless PNG files of RGB pixels, fast to write and to read, with the same bytes every time.

Each row is stored as its difference from the row above, compressed by Intel's ISA-L at level 1.
Its bytes are the same on every x86-64 processor (at level 3 they are not); those of an ARM
processor hold the same pixels in other bytes.
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib

LEVEL = 1
UP = 2  # the PNG filter "up"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">IIBBBBB")  # width, height, bits, colour type, three methods
RGB = (8, 2, 0, 0, 0)
EMPTY_CHUNK = 12  # bytes of a chunk's length, name and checksum
DATA = len(SIGNATURE) + EMPTY_CHUNK + HEADER.size  # where the chunk with the pixels begins


def encode_png(pixels: np.ndarray) -> bytes:
    """The PNG of pixels uint8 [height, width, 3]; it depends on them and the ISA-L library only."""
    height, width, _ = pixels.shape
    plain = pixels.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = plain[0]
    np.subtract(plain[1:], plain[:-1], out=rows[1:, 1:])
    return SIGNATURE + b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"IHDR", HEADER.pack(width, height, *RGB)),
            (b"IDAT", isal_zlib.compress(rows, LEVEL)),
            (b"IEND", b""),
        )
    )


def decode_png(data: bytes) -> np.ndarray:
    """Pixels uint8 [height, width, 3] of what `encode_png` wrote.

    Raises:
        ValueError: it is another kind of PNG, or damaged.
    """
    if data[: len(SIGNATURE)] != SIGNATURE or data[DATA + 4 : DATA + 8] != b"IDAT":
        raise ValueError("not a PNG as token shards have it")
    width, height, *kind = HEADER.unpack_from(data, len(SIGNATURE) + 8)
    (size,) = struct.unpack_from(">I", data, DATA)
    try:
        raw = isal_zlib.decompress(memoryview(data)[DATA + 8 : DATA + 8 + size])
    except isal_zlib.error as problem:
        raise ValueError(f"damaged PNG: {problem}") from None
    if tuple(kind) != RGB or len(raw) != height * (1 + 3 * width):
        raise ValueError(f"not a PNG as token shards have it: {width}x{height}, {len(raw)} bytes")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, 1 + 3 * width)
    if not (rows[:, 0] == UP).all():
        raise ValueError("not a PNG as token shards have it: another row filter")
    pixels = np.empty((height, 3 * width), dtype=np.uint8)
    pixels[0] = rows[0, 1:]
    for row in range(1, height):
        np.add(pixels[row - 1], rows[row, 1:], out=pixels[row])
    return pixels.reshape(height, width, 3)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = isal_zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
