"""The grounding task: exact answers, and which answers count."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.errors import SampleError
from shardline.samples import Box, Medium, Point, Sample
from shardline.tasks import grounding

SENTENCE = (
    "Based on the screenshot of the page, I give a text description and you give its "
    "corresponding location. The coordinate represents a clickable location [x, y] for an "
    "element, which is a relative coordinate on the screenshot, scaled from 0 to 1."
)


def sample(*boxes, frame="unit", points=(), size=(200, 100)):
    return Sample(
        id="d:f#0",
        dataset="d",
        media=[Medium(kind="image", path="a.png", width=size[0], height=size[1])],
        boxes=[Box(label=f"box {number}", xyxy=list(box)) for number, box in enumerate(boxes)],
        points=[Point(label="", xy=list(point)) for point in points],
        frame=frame,
    )


def test_a_conversation_has_the_image_once_and_every_box():
    messages = grounding.conversation(sample([0, 0, 1, 1], [0.6, 0.3, 0.7, 0.44]), {})
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"] == [
        {"type": "text", "text": SENTENCE},
        {"type": "image"},
        {"type": "text", "text": "box 0"},
    ]
    assert messages[2]["content"] == [{"type": "text", "text": "box 1"}]
    answers = [message["content"][0]["text"] for message in messages[1::2]]
    assert answers == ["[0.5, 0.5]", "[0.65, 0.37]"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [(None, SENTENCE), ("Find it.", "Find it."), ("", None)],
)
def test_the_prompt_can_be_replaced_or_left_out(prompt, expected):
    content = grounding.conversation(sample([0, 0, 1, 1]), {"prompt": prompt})[0]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    assert texts == ([expected] if expected else []) + ["box 0"]


def test_a_question_is_the_first_turn_of_a_conversation_about_that_box():
    item = sample([0, 0, 1, 1], [0, 0, 0.5, 0.5])
    assert grounding.question(item, 0, {}) == grounding.conversation(item, {})[:1]
    assert grounding.question(item, 1, {})[0]["content"][-1]["text"] == "box 1"
    assert {"type": "image"} in grounding.question(item, 1, {})[0]["content"]


@pytest.mark.parametrize(
    ("frame", "box", "expected"),
    [
        ("unit", [0.48, 0.3, 0.52, 0.44], "[0.5, 0.37]"),
        ("pixel", [96, 30, 104, 44], "[0.5, 0.37]"),
        ("per_mille", [480, 300, 520, 440], "[0.5, 0.37]"),
        ("unit", [0, 0, 0, 0], "[0.0, 0.0]"),
        ("unit", [1, 1, 1, 1], "[1.0, 1.0]"),
    ],
)
def test_answers_have_exact_bytes_in_every_frame(frame, box, expected):
    assert grounding.answer(sample(box, frame=frame), 0, {"answer": {"decimals": 2}}) == expected


def test_decimals_and_given_points_shape_the_answer():
    item = sample([0, 0, 1, 1], points=[[0.123456, 0.98765]])
    assert grounding.answer(item, 0, {"answer": {"decimals": 1}}) == "[0.1, 1.0]"
    assert grounding.answer(item, 0, {"answer": {"decimals": 3}}) == "[0.123, 0.988]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0.65, 0.37]", [0.65, 0.37]),
        ("(0.65, 0.37)", [0.65, 0.37]),
        ("0.65, 0.37", [0.65, 0.37]),
        ("The element is at [0.5, 0.37].", [0.5, 0.37]),
        ("see (below): [0.5,0.37]<|im_end|>", [0.5, 0.37]),
        ("[0.2, 0.2, 0.4, 0.6]", [pytest.approx(0.3), pytest.approx(0.4)]),
        ("[0, 1]", [0.0, 1.0]),
        ("[.5, 5e-1]", [0.5, 0.5]),
        ("[0.5, 0.3][0.1, 0.1]", [0.5, 0.3]),
        ("[nan, 0.5]", None),
        ("[0.5]", None),
        ("0.5", None),
        ("[0.1, 0.2, 0.3]", None),
        ("['0.5', '0.5']", None),
        ("[1.01, 0.5]", None),
        ("[-0.1, 0.5]", None),
        ("[650, 370]", None),
        ("[[0.1, 0.2], [0.3, 0.4]]", None),
        ("[1e999, 0.5]", None),
        ("", None),
        ("no idea", None),
        ("[0.5 0.5]", None),
    ],
)
def test_parse(text, expected):
    assert grounding.parse(text, {}) == expected


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 4))
def test_an_answer_parses_back_to_its_rounded_point(x, y, decimals):
    item = sample([0, 0, 1, 1], points=[[x, y]])
    text = grounding.answer(item, 0, {"answer": {"decimals": decimals}})
    assert grounding.parse(text, {}) == [round(x, decimals), round(y, decimals)]


@given(st.text())
def test_parse_never_fails_and_stays_in_the_image(text):
    point = grounding.parse(text, {})
    assert point is None or all(0 <= value <= 1 and math.isfinite(value) for value in point)


def test_points_outside_and_boxes_without_an_image_are_refused():
    with pytest.raises(SampleError) as caught:
        grounding.conversation(sample([1, 0, 1.2, 0.5]), {})
    assert caught.value.reason == "point_outside"
    item = sample([0, 0, 1, 1])
    item.media = []
    with pytest.raises(SampleError) as caught:
        grounding.conversation(item, {})
    assert caught.value.reason == "no_image"
