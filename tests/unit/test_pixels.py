"""Decoding into arrays gives the very pixels of the careful way, for every kind of file."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from shardline.images import BadImage, decode_rgb
from shardline.pixels import _plain_kind, decode_pixels

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"}


def picture(width=61, height=45):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :] = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(pixels)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_chunk(png, kind, content):
    """A PNG with one more chunk in front of its pixels."""
    chunk = len(content).to_bytes(4, "big") + kind + content
    return png[:33] + chunk + zlib.crc32(kind + content).to_bytes(4, "big") + png[33:]


def described(text):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    return info


XMP = '<rdf:Description tiff:Orientation="6"/>'
PLAIN = {
    "png": saved(picture(), "PNG"),
    "jpeg": saved(picture(), "JPEG", quality=80),
    "jpeg_444": saved(picture(), "JPEG", quality=95, subsampling=0),
    "jpeg_422": saved(picture(), "JPEG", quality=95, subsampling=1),
    "progressive": saved(picture(), "JPEG", quality=80, progressive=True),
    "one_pixel": saved(picture(1, 1), "JPEG"),
    "gamma": with_chunk(saved(picture(), "PNG"), b"gAMA", (100_000).to_bytes(4, "big")),
    "srgb": with_chunk(saved(picture(), "PNG"), b"sRGB", b"\0"),
}
OTHER = {
    "grey_jpeg": saved(picture().convert("L"), "JPEG"),
    "cmyk": saved(picture().convert("CMYK"), "JPEG"),
    "turned_jpeg": saved(picture(), "JPEG", exif=turned(6)),
    "turned_png": saved(picture(), "PNG", exif=turned(8)),
    "xmp_png": saved(picture(), "PNG", pnginfo=described(XMP)),
    "palette": saved(picture().convert("P"), "PNG"),
    "rgba": saved(picture().convert("RGBA"), "PNG"),
    "transparent": saved(picture(), "PNG", transparency=(0, 0, 0)),
    "grey_png": saved(picture().convert("L"), "PNG"),
    "sixteen_bits": saved(picture().convert("I;16"), "PNG"),
    "animated": saved(picture(), "PNG", save_all=True, append_images=[picture(61, 45).rotate(180)]),
    "webp": saved(picture(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_every_kind_of_file_gives_the_same_pixels(name):
    data = (PLAIN | OTHER)[name]
    pixels = decode_pixels(data)
    assert np.array_equal(pixels, np.asarray(decode_rgb(data)))
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous
    assert bool(_plain_kind(data)) == (name in PLAIN)


def test_real_files_give_the_same_pixels(shared_data):
    kinds = []
    for path in sorted(shared_data.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.stat().st_size > 2_000_000:
            continue
        data = path.read_bytes()
        try:
            expected = np.asarray(decode_rgb(data, 20_000_000))
        except BadImage:
            continue
        assert np.array_equal(decode_pixels(data), expected), path
        kinds.append(_plain_kind(data))
    assert kinds.count("PNG") > 10 and kinds.count("JPEG") > 10 and "" in kinds


@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_a_truncated_file_is_refused_as_before(name):
    data = PLAIN[name]
    for size in (0, 20, len(data) // 2):
        with pytest.raises(BadImage):
            decode_pixels(data[:size])
