"""The PNG files of token shards: lossless, readable by others, damage never goes unseen."""

import io
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shardline.files import sha256_bytes
from shardline.png import decode_png, encode_png

GOLDEN = "3635798a661ee38d1a85e137e134dd7b235a6521f30754c14b207a327b54515d"


def drawn(width, height, seed=0):
    """Pixels with flat areas, as screens have them, and noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = 200
    return pixels


@settings(max_examples=25)
@given(width=st.integers(1, 90), height=st.integers(1, 90), seed=st.integers(0, 9))
def test_png_files_are_lossless_and_others_read_them(width, height, seed):
    pixels = drawn(width, height, seed)
    data = encode_png(pixels)
    assert data == encode_png(pixels.copy())
    assert np.array_equal(decode_png(data), pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ARM processors compress otherwise")
def test_the_bytes_are_those_of_every_x86_processor():
    assert sha256_bytes(encode_png(drawn(301, 207))) == GOLDEN


def test_damage_anywhere_is_seen():
    data = encode_png(drawn(40, 30))
    for place in range(0, len(data) - 16, 7):  # the last chunks hold no pixels
        broken = bytearray(data)
        broken[place] ^= 0x10
        try:
            assert np.array_equal(decode_png(bytes(broken)), drawn(40, 30))
        except ValueError:
            continue
    for size in (0, 8, 33, 60, len(data) // 2):
        with pytest.raises(ValueError):
            decode_png(data[:size])


def test_another_kind_of_png_is_refused():
    for image in (Image.new("L", (8, 8)), Image.fromarray(drawn(30, 30))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        with pytest.raises(ValueError):
            decode_png(buffer.getvalue())
