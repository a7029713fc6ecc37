"""Boxes and points: frames are declared, values are checked, nothing is guessed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.boxes import FRAMES, check_agreement, check_box, check_point, parse_frame
from shardline.boxes import parse_numbers as numbers
from shardline.errors import ConfigError
from shardline.rows import Rejection
from shardline.samples import to_unit


def reason(call, *arguments):
    with pytest.raises(Rejection) as caught:
        call(*arguments)
    return caught.value.reason


def test_xywh_of_the_published_row():
    corners, clipped = check_box([910, 78, 44, 34], "pixel_xywh", 960, 540)
    assert corners == [910, 78, 954, 112] and not clipped
    unit = to_unit(corners, "pixel", 960, 540)
    assert unit == pytest.approx([0.947917, 0.144444, 0.99375, 0.207407], abs=1e-6)


def test_xywh_declared_xyxy_is_rejected_not_guessed():
    assert reason(check_box, [910, 78, 44, 34], "pixel_xyxy", 960, 540) == "swapped_corners"


def test_one_pixel_outside_is_clipped_and_told():
    assert check_box([2300, 10, 2361, 40], "pixel_xyxy", 2360, 1640) == (
        [2300, 10, 2360, 40],
        True,
    )
    assert check_box([135, -1, 151, 19], "pixel_xyxy", 960, 540) == ([135, 0, 151, 19], True)
    assert reason(check_box, [2300, 10, 2363, 40], "pixel_xyxy", 2360, 1640) == "outside_image"
    assert reason(check_box, [2360, 10, 2361, 40], "pixel_xyxy", 2360, 1640) == "zero_area"


def test_clipping_is_in_pixels_in_every_frame():
    assert check_box([0.5, 0.5, 1.001, 1.0], "unit_xyxy", 1000, 500)[1]
    assert reason(check_box, [0.5, 0.5, 1.01, 1.0], "unit_xyxy", 1000, 500) == "outside_image"
    assert check_box([500, 500, 1001, 1000], "per_mille_xyxy", 1000, 500) == (
        [500, 500, 1000, 1000],
        True,
    )


@pytest.mark.parametrize(
    ("value", "frame", "expected"),
    [
        ([5, 5, 5, 9], "pixel_xyxy", "zero_area"),
        ([5, 5, 0, 4], "pixel_xywh", "zero_area"),
        ([5, 5, -3, 4], "pixel_xywh", "negative_size"),
        ([5, 5, 9], "pixel_xyxy", "bad_box"),
        ([1, 2, 3, 4, 5], "pixel_xyxy", "bad_box"),
        ([math.nan, 1, 2, 3], "pixel_xyxy", "bad_box"),
        ([0, 1, math.inf, 3], "pixel_xyxy", "bad_box"),
        ([0, 1, 10**400, 3], "pixel_xyxy", "bad_box"),
        ([0, 1, "nan", 3], "pixel_xyxy", "bad_box"),
        ([0, 1, "1_0", 3], "pixel_xyxy", "bad_box"),
        ([0, 1, "ten", 3], "pixel_xyxy", "bad_box"),
        ([0, 1, True, 3], "pixel_xyxy", "bad_box"),
        ([0, 1, None, 3], "pixel_xyxy", "bad_box"),
        ([0, 1, [2], 3], "pixel_xyxy", "bad_box"),
        ("0, 1, 2, 3", "pixel_xyxy", "bad_box"),
        ({"x": 1}, "pixel_xyxy", "bad_box"),
        (None, "pixel_xyxy", "bad_box"),
    ],
)
def test_what_is_rejected(value, frame, expected):
    assert reason(check_box, value, frame, 100, 100) == expected


def test_numbers_as_text_are_taken():
    assert numbers("[1, 2.5, 3, 4]", 4) == [1, 2.5, 3, 4]
    assert numbers(["1", " 2.5 ", "-3e1", ".5"], 4) == [1, 2.5, -30, 0.5]


def test_unknown_frame_names_the_known():
    with pytest.raises(ConfigError, match="pixel_xywh"):
        parse_frame("pixels")


def test_point_inside_is_kept_else_the_centre():
    box = [0.1, 0.2, 0.3, 0.4]
    assert check_point([0.1, 0.4], box) == ([0.1, 0.4], False)
    assert check_point("[0.2, 0.3]", box) == ([0.2, 0.3], False)
    centre = pytest.approx([0.2, 0.3])
    assert check_point(None, box) == (centre, False)
    assert check_point([0.5, 0.3], box) == (centre, True)
    assert check_point("here", box) == (centre, True)


def test_a_box_stated_twice_must_agree():
    check_agreement([0.1, 0.1, 0.2, 0.3], "unit_xywh", [10, 20, 10, 40], 100, 200)
    disagreeing = ([0.1, 0.1, 0.2, 0.3], "unit_xywh", [10, 20, 10, 40], 150, 300)
    assert reason(check_agreement, *disagreeing) == "boxes_disagree"


SIZES = st.integers(1, 4000)
VALUES = st.floats(-5000, 5000) | st.integers(-5000, 5000)


@given(st.sampled_from(sorted(FRAMES)), st.lists(VALUES, min_size=4, max_size=4), SIZES, SIZES)
def test_an_accepted_box_lies_inside_its_image(frame, value, width, height):
    try:
        corners, _ = check_box(value, frame, width, height)
    except Rejection:
        return
    left, top, right, bottom = to_unit(corners, parse_frame(frame)[0], width, height)
    assert 0 <= left < right <= 1 + 1e-9 and 0 <= top < bottom <= 1 + 1e-9
    again = check_box(corners, frame.replace("xywh", "xyxy"), width, height)
    assert again == (corners, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(JSON, st.booleans())
def test_no_json_value_gets_past_as_anything_but_numbers_or_a_rejection(value, as_text):
    try:
        parsed = numbers(json.dumps(value) if as_text else value, 4)
    except Rejection:
        return
    assert len(parsed) == 4 and all(math.isfinite(number) for number in parsed)
