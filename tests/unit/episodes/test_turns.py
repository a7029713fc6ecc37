"""A step with its past as turns, in every way to tell the past."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from episode_data import (
    action,
    answer,
    shape,
)
from shardline.episodes.steps import Action, Space, Step
from shardline.episodes.turns import INTERLEAVINGS, conversation
from shardline.samples import Medium


def click(number, **fields):
    image = Medium(kind="image", path=f"{number}.png")
    done = [Action(name="CLICK", position=[number / 10, 1 / 3])]
    return Step(file="a", index=number, number=number, task="go", image=image, actions=done,
                **fields)  # fmt: skip


SPACE = Space(screen="website", actions={"CLICK": "the position"})


FIRST = '{"action": "CLICK", "value": null, "position": [0.1, 0.33]}\n'


SECOND = '{"action": "CLICK", "value": null, "position": [0.2, 0.33]}\n'


@pytest.mark.parametrize(
    ("interleaving", "told"),
    [
        ("tttt", ["Task: go\n" + FIRST + SECOND, "v"]),
        ("vvvv", ["Task: go\n", "v", "v", "v"]),
        ("vtvt", ["Task: go\n", "v", FIRST, "v", SECOND, "v"]),
        ("tvtv", ["Task: go\n" + FIRST, "v", SECOND, "v", "v"]),
        ("vvtt", ["Task: go\n", "v", "v", FIRST + SECOND, "v"]),
        ("ttvv", ["Task: go\n" + FIRST + SECOND, "v", "v", "v"]),
    ],
)
def test_the_six_ways_to_tell_the_past(interleaving, told):
    messages, media = conversation(
        click(3), [click(1), click(2)], SPACE,
        interleaving=interleaving, answer="json", decimals=2, prompt="",
    )  # fmt: skip
    assert shape({"messages": messages}) == told
    names = ["3.png"] if interleaving == "tttt" else ["1.png", "2.png", "3.png"]
    assert [medium.path for medium in media] == names
    assert answer({"messages": messages}) == FIRST.replace("0.1", "0.3").strip()


def test_an_answer_as_showui_writes_it():
    step = click(5)
    step.actions = [Action(name="SWIPE", position=[[0.5, 0.999], [0.456, 1.0]])]
    options = {"interleaving": "tttt", "decimals": 2, "prompt": None}
    messages, _ = conversation(step, [], SPACE, answer="python", **options)
    assert answer({"messages": messages}) == (
        "{'action': 'SWIPE', 'value': None, 'position': [[0.5, 1.0], [0.46, 1.0]]}"
    )
    question = shape({"messages": messages})[0]
    assert "{'action': NAME, 'value': TEXT, 'position': [x, y]}" in question
    assert "does not have is None" in question and "CLICK: the position" in question
    assert question.endswith("\nTask: go\n")
    step.actions.append(Action(name="ANSWER", value="it's “7”\n"))
    messages, _ = conversation(step, [], SPACE, answer="json", **options)
    assert action({"messages": messages})[1] == {
        "action": "ANSWER", "value": "it's “7”\n", "position": None,
    }  # fmt: skip


units = st.floats(0, 1)


actions = st.builds(
    Action,
    name=st.sampled_from(["CLICK", "TYPE"]),
    value=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    position=st.none() | st.lists(units, min_size=2, max_size=2),
)


@settings(max_examples=100)
@example(
    [[Action(name="CLICK", value=None, position=[0.0, 0.125])]], INTERLEAVINGS[0], 2, "Open it"
)
@given(
    done=st.lists(st.lists(actions, min_size=1, max_size=2), min_size=1, max_size=5),
    interleaving=st.sampled_from(INTERLEAVINGS),
    decimals=st.integers(0, 6),
    task=st.text(min_size=1),
)
def test_any_past_keeps_text_and_images_in_step(done, interleaving, decimals, task):
    steps = []
    for number, of_step in enumerate(done):
        step = click(number)
        step.task, step.actions = task, of_step
        steps.append(step)
    told = {}
    for style in ("json", "python"):
        messages, media = conversation(
            steps[-1], steps[:-1], SPACE,
            interleaving=interleaving, answer=style, decimals=decimals, prompt="",
        )  # fmt: skip
        parts = shape({"messages": messages})
        assert len([part for part in parts if part == "v"]) == len(media)
        assert parts[-1] == "v" and parts[0].startswith(f"Task: {task}\n")
        assert [medium.path for medium in media] == (
            [f"{number}.png" for number in range(len(steps))]
            if "v" in interleaving
            else [f"{len(steps) - 1}.png"]
        )
        told[style] = answer({"messages": messages})
    parsed = json.loads(told["json"])
    assert ast.literal_eval(told["python"]) == parsed
    for written, meant in zip(parsed if len(done[-1]) > 1 else [parsed], done[-1], strict=True):
        assert list(written) == ["action", "value", "position"]
        assert written["value"] == meant.value
        if meant.position:
            half = 0.5 * 10**-decimals + 1e-9  # 0.125 is as near to 0.12 as to 0.13
            assert written["position"] == pytest.approx(meant.position, abs=half)
            assert all(0 <= value <= 1 for value in written["position"])
