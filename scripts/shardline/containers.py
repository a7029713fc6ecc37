"""Whether a media file ends before its container says: the box sizes of MP4 and HEIC, and so on.

Decoders take many a file that was cut off for a shorter one.
"""

from __future__ import annotations

import os
from typing import BinaryIO

BOXES = frozenset(
    b"ftyp styp moov moof mdat meta mfra free skip wide pnot uuid sidx ssix emsg prft udta".split()
)  # what can stand at the top of an ISO base media file (ISO/IEC 14496-12), and QuickTime's
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska (RFC 8794, RFC 9559)
GIF = (b"GIF87a", b"GIF89a")
GIF_END = b";"
TAIL = 1024  # bytes in which a GIF's end is looked for: some writers fill up with zeros


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes a file lacks at its end, by what its container says; at least how many.

    0 for a whole file, and for a container that does not say or that we do not know.
    """
    size = file.seek(0, os.SEEK_END)
    head = _read(file, 0, 12)
    if head[4:8] in BOXES:
        end = _end_of_boxes(file, size)
    elif head[:4] == b"RIFF":
        end = _end_of_riff(file, size)
    elif head[:4] == EBML:
        end = _end_of_segment(file)
    elif head[:6] in GIF:
        tail = _read(file, max(0, size - TAIL), TAIL)
        end = size + (not tail.rstrip(b"\0").endswith(GIF_END))
    else:
        end = size
    return max(0, end - size)


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last top box ends; what follows the boxes and is none does not count."""
    position = 0
    while position < size:
        head = _read(file, position, 16)
        length = int.from_bytes(head[:4], "big")
        if head[4:8] not in BOXES or length == 0:  # 0: to the end of the file
            break
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            break
        position += length
    return position


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends (large AVI files have several)."""
    position = 0
    while position < size and _read(file, position, 4) == b"RIFF":
        length = int.from_bytes(_read(file, position + 4, 4), "little")
        if length in (0, 0xFFFFFFFF):  # never filled in by the writer
            break
        position += 8 + length
    return position


def _end_of_segment(file: BinaryIO) -> int:
    """Where the Matroska segment ends; 0 if its writer did not say (a live stream)."""
    start, length = _ebml_size(file, len(EBML))
    position = start + length
    if _read(file, position, len(SEGMENT)) != SEGMENT:
        return 0
    start, length = _ebml_size(file, position + len(SEGMENT))
    return start + length if length >= 0 else 0


def _ebml_size(file: BinaryIO, position: int) -> tuple[int, int]:
    """Where an element's content starts, and its size in bytes; -1 if unknown (all bits set)."""
    head = _read(file, position, 8)
    if not head or not head[0]:
        return position, -1
    width = 9 - head[0].bit_length()
    bits = 7 * width
    value = int.from_bytes(head[:width], "big") & ((1 << bits) - 1)
    return position + width, -1 if value == (1 << bits) - 1 else value
