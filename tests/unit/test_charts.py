"""Charts: round ticks, thinned lines that keep their extremes, escaped texts."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.redact import HIDDEN, redact, redact_text
from shardline.reporting.charts import (
    Interval,
    Series,
    interval_chart,
    line_chart,
    moving_mean,
    number,
    thin,
    ticks,
)
from shardline.reporting.numbers import count, per_cent, plural, seconds, size

finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(finite, st.floats(1e-6, 1e9))
def test_ticks_are_few_evenly_spaced_and_inside(low: float, span: float) -> None:
    high = low + span
    if not high - low > 1e-9 * abs(low):
        return
    values = ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert 2 <= len(values) <= 7
    assert all(low - slack <= value <= high + slack for value in values)


def test_ticks_of_common_ranges() -> None:
    assert ticks(0, 4.1) == [0, 1, 2, 3, 4]
    assert ticks(0, 975) == [0, 200, 400, 600, 800]
    assert ticks(0, 0.004) == [0, 0.001, 0.002, 0.003, 0.004]
    assert ticks(3, 3) == [3]
    assert ticks(1, 3, least=1) == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.004, "0.004"), (2e-5, "2e-5"), (1500, "1,500"), (20_000, "2e4"), (0.25, "0.25")],
)
def test_tick_texts(value: float, text: str) -> None:
    assert number(value) == text


@given(st.lists(finite, min_size=1, max_size=3000))
def test_thinning_keeps_ends_and_extremes(values: list[float]) -> None:
    chosen = thin(values, most=100)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= 104
    assert (chosen[0], chosen[-1]) == (0, len(values) - 1)
    kept = [values[index] for index in chosen]
    assert (min(kept), max(kept)) == (min(values), max(values))


def test_moving_mean_starts_with_what_there_is() -> None:
    assert moving_mean([1, 3, 5, 7], 2) == [1, 2, 4, 6]


def test_line_chart_skips_what_is_no_number_and_escapes_names() -> None:
    chart = line_chart([Series("a<b>", [1, 2, 3], [1.0, math.nan, 2.0])], "x & y", "<loss>")
    root = ET.fromstring(chart)
    line = root.find("polyline")
    assert len(line.get("points").split()) == 2
    assert line.find("title").text == "a<b>"
    texts = [text.text for text in root.iter("text")]
    assert "x & y" in texts and "<loss>" in texts


def test_line_chart_of_one_value_and_of_none() -> None:
    ET.fromstring(line_chart([Series("a", [5], [0.0])], "x", "y"))
    assert line_chart([Series("a", [1], [math.inf])], "x", "y") == ""


def test_interval_chart_spans_nothing_to_everything() -> None:
    root = ET.fromstring(interval_chart([Interval("<m>", 0.5, 0.0, 1.0)], "accuracy"))
    group = root.find("g")
    lines = [(float(line.get("x1")), float(line.get("x2"))) for line in group.iter("line")]
    grid = [float(line.get("x1")) for line in root.findall("line")]
    assert lines[0] == (min(grid), max(grid))
    assert float(group.find("circle").get("cx")) == pytest.approx(sum(lines[0]) / 2, abs=0.1)


def test_figures_as_text() -> None:
    assert (count(12345), count(None)) == ("12,345", "–")
    assert (plural(1, "box", "boxes"), plural(2, "box", "boxes")) == ("1 box", "2 boxes")
    assert per_cent(0.4567) == "45.7 %"
    assert (size(999), size(1_234_567), size(5e15)) == ("999 B", "1.2 MB", "5,000.0 TB")
    assert (seconds(3.14), seconds(171.4)) == ("3.1", "171")


def test_redaction_keeps_what_is_no_secret() -> None:
    data = {"tokens": {"seed": 1}, "token": "x", "list": ["https://u:p@host/a?token=1&b=2"]}
    assert redact(data) == {
        "tokens": {"seed": 1},
        "token": HIDDEN,
        "list": [f"https://host/a?token={HIDDEN}&b=2"],
    }
    assert redact_text("a hf_" + "A" * 20 + " b") == f"a {HIDDEN} b"
