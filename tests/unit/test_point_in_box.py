"""Grounding accuracy: golden figures of published tables, borders, formats."""

from __future__ import annotations

import pytest

from shardline.errors import DataError
from shardline.metrics.point_in_box import inside, macro, micro, score
from shardline.samples import Box, Medium, Sample

V1_COUNTS = (273, 229, 194, 140, 230, 206)  # ScreenSpot v1: mobile, desktop, web; text and icon
OPTIONS = {"task": "grounding", "tokens": {"answer": {"decimals": 2}}}


def _sample() -> Sample:
    return Sample(
        id="b:x#0",
        dataset="b",
        media=[Medium(kind="image", path="a.png", width=200, height=100)],
        boxes=[
            Box(label="Save", xyxy=[20, 10, 60, 50], kind="icon"),
            Box(label="Open", xyxy=[100, 0, 200, 100], kind="text"),
        ],
        frame="pixel",
    )


def _prediction(index: int, answer: str) -> dict[str, str]:
    return {"item": f"b:x#0#{index}", "question": "?", "answer": answer}


def test_published_cells_give_both_published_means() -> None:
    """ShowUI-2B: 75.1 in its own table (macro), 76.8 where others list it (micro)."""
    rates = (92.3, 75.5, 76.3, 61.1, 81.7, 63.6)
    cells = {
        str(index): {"accuracy": rate / 100, "n": n}
        for index, (rate, n) in enumerate(zip(rates, V1_COUNTS, strict=True))
    }
    assert round(100 * macro(cells), 1) == 75.1
    assert round(100 * micro(cells), 2) == 76.84


@pytest.mark.parametrize("point", [[0.1, 0.1], [0.3, 0.5], [0.1, 0.5], [0.2, 0.3]])
def test_borders_are_inside(point: list[float]) -> None:
    assert inside(point, [0.1, 0.1, 0.3, 0.5])


def test_scores_count_what_cannot_be_parsed_as_wrong() -> None:
    samples = {"b:x#0": _sample()}
    scores, items = score(
        [_prediction(1, "no idea"), _prediction(0, "[0.3, 0.5]")], samples, OPTIONS
    )
    assert scores["accuracy"] == 0.5
    assert scores["n"] == 2
    assert scores["wrong_format"] == 1
    assert scores["macro"] == 0.5
    assert scores["cells"] == {
        "icon": {"accuracy": 1.0, "n": 1},
        "text": {"accuracy": 0.0, "n": 1},
    }
    assert scores["low"] < 0.5 < scores["high"]
    assert [item["item"] for item in items] == ["b:x#0#0", "b:x#0#1"]
    assert items[0]["hit"] is True
    assert items[0]["point"] == [0.3, 0.5]
    assert items[0]["box"] == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert items[1] == items[1] | {"hit": False, "point": None, "answer": "no idea"}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([], "no predictions"),
        ([_prediction(0, "[0, 0]"), _prediction(0, "[0, 0]")], "two predictions"),
        ([_prediction(2, "[0, 0]")], "no item of this benchmark"),
        ([{"item": "b:y#0#0", "question": "?", "answer": ""}], "no item of this benchmark"),
    ],
)
def test_predictions_that_do_not_fit_are_errors(predictions: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(predictions, {"b:x#0": _sample()}, OPTIONS)
