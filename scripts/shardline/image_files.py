"""Opening image files of untrusted bytes: their formats, their limits, and what is wrong with them.

Nothing here decodes a picture; see `images`.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from shardline.containers import missing_bytes
from shardline.embedded import image_extension

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
KNOWN_OTHERS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"\0\0\x01\0": "an icon",
}
MAX_SIDE = 65_535  # pixels: more than a JPEG can have is no picture but an attack
MAX_SCANS = 200  # of a JPEG: each costs a pass over the picture, whatever its few bytes hold
UNDECODABLE = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
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


def open_image(data: bytes, max_pixels: int | None) -> Image.Image:
    """Read the header of an image file, and refuse what is not to be decoded."""
    formats = FORMATS
    brands = _brands(data)
    if brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
        _allow_heif()
        formats = ("HEIF",)
        if lacks := missing_bytes(io.BytesIO(data)):
            raise BadImage("corrupt_image", f"truncated; missing bytes: {lacks}")
    image = Image.open(io.BytesIO(data), formats=formats)
    width, height = image.size
    if max_pixels is not None and (width * height > max_pixels or max(width, height) > MAX_SIDE):
        limit = f"{max_pixels} pixels" if width * height > max_pixels else f"{MAX_SIDE} a side"
        raise BadImage("too_many_pixels", f"{width}x{height} is over the limit of {limit}")
    if width < 1 or height < 1:
        raise BadImage("corrupt_image", f"{width}x{height} pixels")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise BadImage("unsupported_image", "32 bits a pixel, of which none says what is white")
    if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise BadImage("unsupported_image", f"{scans} scans, over the limit of {MAX_SCANS}")
    if image.format == "PNG":
        image.verify()  # finds what decoding passes over: checksums
        image = Image.open(io.BytesIO(data), formats=formats)
    return image


def _brands(data: bytes) -> set[bytes]:
    """What an ISO base media file says it is (ISO/IEC 14496-12, ``ftyp``)."""
    if data[4:8] != b"ftyp":
        return set()
    head = data[8 : int.from_bytes(data[:4], "big")][:1024]
    return {head[start : start + 4] for start in range(0, len(head), 4) if start != 4}


def _unidentified(data: bytes) -> BadImage:
    """What to say of bytes of which Pillow can read no header."""
    for start, name in KNOWN_OTHERS.items():
        if data.startswith(start):
            return BadImage("unsupported_image", f"{name} is not read")
    if (kind := image_extension(data)) != "bin":
        return BadImage("corrupt_image", f"the header of a {kind} file is broken")
    return BadImage("corrupt_image", f"no image format that we know; begins with {data[:16]!r}")


def _allow_heif() -> None:
    """Teach Pillow HEIF, at the first such file: other programs need not load libheif."""
    if "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)


@contextlib.contextmanager
def told(data: bytes, max_pixels: int | None) -> Iterator[None]:
    """Turn whatever a decoder raises into a `BadImage`, and keep its warnings to ourselves."""
    if not data:
        raise BadImage("empty_file", "the file has no bytes")
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow makes some pictures as soon as it opens a file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError as error:
        pixels = re.findall(r"\d+", str(error))[0]
        raise BadImage(
            "too_many_pixels", f"{pixels} pixels are over the limit of {max_pixels} pixels"
        ) from None
    except UNDECODABLE as error:
        message = re.sub(r"<[^>]*>|0x[0-9a-f]+", "...", str(error))  # no memory addresses
        reason = "decompression_bomb" if "MAX_TEXT" in message else "corrupt_image"
        raise BadImage(reason, message or type(error).__name__) from None
    finally:
        Image.MAX_IMAGE_PIXELS = before
