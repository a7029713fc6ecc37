"""Perceptual hashes and the search for near ones."""

from __future__ import annotations

import time

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raw_datasets import picture, save
from shardline.errors import ConfigError, DataError
from shardline.perceptual import distance, hash_file, near_pairs, perceptual_hash


def brute_force(left, right, max_distance):
    differ = np.bitwise_count(left[:, None] ^ right[None])
    return [tuple(pair) for pair in np.argwhere(differ <= max_distance).tolist()]


@given(st.integers(0, 12), st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60))
def test_near_pairs_equal_brute_force(max_distance, seed, n, m):
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**63, 5, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, (n + m, 6), dtype=np.uint64)
    hashes = centres[random.integers(0, 5, n + m)] ^ np.bitwise_xor.reduce(flips, axis=1)
    left, right = hashes[:n], hashes[n:]
    i, j = near_pairs(left, right, max_distance)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == brute_force(left, right, max_distance)


def test_many_candidates_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr("shardline.perceptual.PAIRS_AT_ONCE", 7)
    hashes = np.arange(40, dtype=np.uint64)
    i, j = near_pairs(hashes, hashes, 1)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == brute_force(hashes, hashes, 1)


def test_a_hundred_thousand_take_seconds():
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000, dtype=np.uint64)
    start = time.perf_counter()
    i, _ = near_pairs(hashes, hashes, 4)
    assert len(i) == len(hashes) and time.perf_counter() - start < 20


@pytest.mark.parametrize("value", [-1, 64, 2.5, "2", True, None])
def test_max_distance_is_bits(value):
    with pytest.raises(ConfigError, match="max_distance"):
        near_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), value)


def test_it_is_imagehash_and_knows_a_scaled_copy():
    image = picture(3, (640, 480))
    assert perceptual_hash(image) == int(str(imagehash.phash(image)), 16)
    scaled = perceptual_hash(image.resize((320, 240), Image.Resampling.LANCZOS))
    assert distance(perceptual_hash(image), scaled) <= 2
    assert distance(perceptual_hash(image), perceptual_hash(picture(4, (640, 480)))) > 8


def test_known_copies_of_real_pictures(shared_data):
    def phash(name):
        return hash_file(str(next((shared_data / "quality_filtering").rglob(name))))

    assert distance(phash("image_142.png"), phash("image_236.png")) == 0  # exact
    assert distance(phash("image_103.png"), phash("image_408.png")) <= 2  # near
    assert distance(phash("image_103.png"), phash("image_101.*")) > 8
    assert phash("image_417.png") is None  # black


def test_flat_pictures_have_none():
    for colour in ("white", "black", (200, 10, 10), (100, 101, 100)):
        assert perceptual_hash(Image.new("RGB", (64, 64), colour)) is None


def test_the_same_upright_picture_has_the_same_hash(tmp_path):
    image = picture(5, (300, 200))
    save(image, tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(image.transpose(Image.Transpose.ROTATE_90), tmp_path / "turned.png", exif=exif)
    assert hash_file(str(tmp_path / "upright.png")) == hash_file(str(tmp_path / "turned.png"))


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.png"):
        hash_file(str(tmp_path / "a.png"))
