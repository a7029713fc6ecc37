"""Sharpness, a scorer of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from filtered import audited, judge
from raw_datasets import picture
from shardline.scorers.sharpness import score_file, sharpness


def straight_sharpness(image):
    """The same by other means: SciPy's convolution and NumPy's variance."""
    width, height = image.size
    scale = 256 / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR), np.float64)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return ndimage.convolve(grey, kernel, mode="nearest").var()


@pytest.mark.parametrize("size", [(240, 160), (256, 256), (800, 31), (3000, 2), (1, 1), (2, 900)])
def test_sharpness_is_the_variance_of_the_laplacian(size):
    image = picture(3, size)
    assert sharpness(image) == pytest.approx(straight_sharpness(image), rel=1e-9, abs=1e-9)


def test_sharpness_falls_with_blur_and_is_zero_for_a_flat_picture():
    image = picture(5, (512, 384))
    blurred = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 6)]
    assert blurred == sorted(blurred, reverse=True) and blurred[0] > 10 * blurred[-1] > 0
    assert sharpness(Image.new("RGB", (300, 200), "red")) == 0
    small = picture(6, (256, 200))
    turned = [small.transpose(way) for way in Image.Transpose]
    assert {sharpness(other) for other in turned} == {sharpness(small)}


def test_real_pictures_with_known_defects(shared_data):
    raw = shared_data / "quality_filtering"
    samples, _ = audited(raw, raw.glob("*.png"))
    scores = {item.media[0].path: score_file(str(raw / item.media[0].path)) for item in samples}
    assert scores["image_142.png"] == scores["image_236.png"]  # the same bytes
    blurred, black = scores["image_601.png"], scores["image_417.png"]
    assert black < blurred < min(scores[f"image_{name}.png"] for name in (101, 103, 142, 408))
    duplicates = [item for item in samples if item.media[0].path[6:9] in ("142", "236")]
    for item in duplicates:
        item.group = "pair"
    verdict = judge("best_view", duplicates, raw)
    assert verdict.figures["ties"] == 1 and list(verdict.rejected) == [duplicates[1].id]


def test_real_pictures_that_are_hard_to_decode_have_a_score(shared_data):
    raw = shared_data / "tricky_pillow"
    samples, other = audited(raw, raw.iterdir())
    for item in samples:
        item.group = "all"
    verdict = judge("best_view", samples, raw)
    assert len(verdict.rejected) == len(samples) - 1 == 45 - len(other)
    assert verdict.figures["best_scores"]["max"] >= verdict.figures["best_scores"]["min"] > 0
