"""Points and boxes in every style and frame: exact bytes, and back to the same place."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.coordinates import read, write
from shardline.errors import DataError

SEEN = [(1344, 756)]
POINT, BOX = [0.65, 0.37], [0.1, 0.2, 0.3, 0.4]
unit = st.floats(0, 1)


@pytest.mark.parametrize(
    ("style", "frame", "point", "box"),
    [
        ("list", "unit", "[0.65, 0.37]", "[0.1, 0.2, 0.3, 0.4]"),
        ("list", "per_mille", "[650, 370]", "[100, 200, 300, 400]"),
        ("list", "pixel", "[874, 280]", "[134, 151, 403, 302]"),
        ("tags", "per_mille", "(650,370)", "(100,200),(300,400)"),
        ("tags", "unit", "(0.65,0.37)", "(0.1,0.2),(0.3,0.4)"),
        (
            "json",
            "pixel",
            '{"point_2d": [874, 280], "label": "Säve \\"it\\""}',
            '{"bbox_2d": [134, 151, 403, 302], "label": "Säve \\"it\\""}',
        ),
        ("click", "pixel", "Click(874, 280)", None),
    ],
)
def test_exact_bytes(style, frame, point, box):
    answer = {"style": style, "frame": frame}
    assert write(POINT, 'Säve "it"', answer, SEEN) == point
    assert read(point, answer, SEEN) == pytest.approx(POINT, abs=1e-3)
    if box:
        assert write(BOX, 'Säve "it"', answer, SEEN) == box
        assert read(box, answer, SEEN) == pytest.approx([0.2, 0.3], abs=1e-3)


@given(
    st.lists(unit, min_size=2, max_size=2) | st.lists(unit, min_size=4, max_size=4),
    st.sampled_from(["list", "tags", "json"]),
    st.sampled_from(["unit", "per_mille", "pixel"]),
    st.text(),
)
def test_what_is_written_is_read_back_to_its_rounding(values, style, frame, label):
    answer = {"style": style, "frame": frame, "decimals": 3}
    point = read(write(values, label, answer, SEEN), answer, SEEN)
    meant = values if len(values) == 2 else [(values[i] + values[i + 2]) / 2 for i in (0, 1)]
    assert point == pytest.approx(meant, abs=1e-3)


@given(
    st.text() | st.from_regex(r'.{0,3}["\[(]{1,2}(bbox_2d": \[)?-?\d{1,5}(\.\d+)?, ?\d+.{0,9}'),
    st.sampled_from(["list", "tags", "json", "click"]),
    st.sampled_from(["unit", "per_mille", "pixel"]),
)
def test_reading_never_fails_and_stays_in_the_image(text, style, frame):
    point = read(text, {"style": style, "frame": frame}, SEEN)
    assert point is None or all(0 <= value <= 1 and math.isfinite(value) for value in point)


@pytest.mark.parametrize(
    ("style", "frame", "text", "expected"),
    [
        ("json", "per_mille", '```json\n[{"bbox_2d": [100, 200, 300, 400]}]\n```', [0.2, 0.3]),
        ("json", "per_mille", '{"label": "[1, 2]", "point_2d": [100, 200]}', [0.1, 0.2]),
        ("json", "per_mille", "[100, 200]", None),
        ("json", "per_mille", '{"bbox_2d": [100, 200, 300]}', None),
        ("tags", "per_mille", "the box (100, 200), (300, 400).", [0.2, 0.3]),
        ("tags", "per_mille", "(100,200,300,400)", None),
        ("tags", "per_mille", "(1001,200)", None),
        ("click", "pixel", "I would Click(1344, 0)!", [1.0, 0.0]),
        ("click", "pixel", "Click(1345, 0)", None),
    ],
)
def test_what_counts_as_an_answer(style, frame, text, expected):
    found = read(text, {"style": style, "frame": frame}, SEEN)
    assert found == (expected and pytest.approx(expected))


def test_pixels_without_a_size_are_an_error():
    for call in (
        lambda: write(POINT, "", {"frame": "pixel"}, ()),
        lambda: read("[1, 2]", {"frame": "pixel"}, ()),
    ):
        with pytest.raises(DataError, match="needs the size"):
            call()
