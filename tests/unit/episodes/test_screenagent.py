"""Sessions of ScreenAgent."""

from __future__ import annotations

import pytest

from episode_data import (
    action,
    answer,
    convert,
    keyboard,
    mouse,
    screens,
    shape,
    write,
)
from shardline.formats import navigation


def test_real_sessions_of_screenagent(shared_data, results):
    source = shared_data / "screenagent_sessions"
    samples, rejects = convert(results, source, "screenagent")
    reasons = list(rejects.values())
    assert len(samples) == 13
    assert {reason: reasons.count(reason) for reason in reasons} == {
        "no_action": 19, "negative_example": 10,
    }  # fmt: skip
    assert all("_neg_" in row for row, reason in rejects.items() if reason == "negative_example")
    session = "048c56fa99ef42c0976064e7b5598962"
    first, second, third = [sample for sample in samples if sample["group"] == session]
    assert action(first) == {"action": "CLICK", "value": None, "position": [0.31, 0.04]}
    assert first["meta"]["actions"][0]["position"] == [321 / 1024, 30 / 768]
    assert [(part["action"], part["value"]) for part in action(third)] == [
        ("CLICK", None), ("HOTKEY", "Control_L+a"), ("TYPE", "70"), ("CLICK", None),
    ]  # fmt: skip
    assert shape(third)[0].endswith(
        f"Task: Use GIMP to adjust picture contrast\n{answer(first)}\n{answer(second)}\n"
    )
    assert third["media"][0]["path"] == f"train/{session}/images/2023-12-25_16-53-18-408897.jpg"
    chinese, _ = convert(results, source, "screenagent", language="zh", interleaving="vvvv")
    assert "Task: 使用GIMP调整图片对比度\n" in shape(chinese[2])[0]
    assert len(chinese[2]["media"]) == 3
    texts = [sample["meta"]["actions"][0]["value"] for sample in samples]
    assert "print(“HelloWorld”)" in texts and '=AVERAGEIF(c:c,"North",e:e)' in texts


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ([mouse("click", mouse_button="right")], [("RIGHT_CLICK", None, [0.5, 0.5])]),
        ([mouse("drag", 200, 100, mouse_button="left")], [("DRAG", None, [1.0, 1.0])]),
        ([mouse("scroll_down", scroll_repeat=3)], [("SCROLL", "down", [0.5, 0.5])]),
        (
            [mouse("move"), {**mouse("click"), "mouse_position": None}],
            [("MOVE", None, [0.5, 0.5]), ("CLICK", None, None)],
        ),
        ([keyboard(keyboard_key="Ctrl+C")], [("HOTKEY", "Ctrl+C", None)]),
        ([keyboard(keyboard_key="+")], [("PRESS", "+", None)]),
        ([keyboard(keyboard_action_type="input", keyboard_text="")], [("TYPE", "", None)]),
        ([{"action_type": "WaitAction", "wait_time": 2}], [("WAIT", "2", None)]),
        ([{"action_type": "PlanAction"}, mouse("click")], [("CLICK", None, [0.5, 0.5])]),
        ([mouse("click", 201)], "outside_image"),
        ([mouse("click", None)], "bad_point"),
        ([{**mouse("click"), "mouse_position": [1, 2]}], "bad_point"),
        ([{**mouse("double_click"), "mouse_position": None}], "no_position"),
        ([mouse("wiggle")], "bad_action"),
        ([keyboard(keyboard_action_type="press")], "bad_action"),
        ([keyboard(keyboard_action_type="text", keyboard_text=None)], "bad_action"),
        (["click"], "bad_action"),
        ([{"action_type": "FlyAction"}], "bad_action"),
        ([], "no_action"),
        (None, "bad_row"),
    ],
)
def test_actions_of_screenagent(folder, done, expected):
    screens(folder, "s/images/a.jpg")
    row = {"task_prompt": "go", "saved_image_name": "a.jpg", "video_width": 200,
           "video_height": 100, "actions": done}  # fmt: skip
    write(folder / "s/1.json", row)
    (row,) = navigation.read(folder, {"layout": "screenagent"})
    if isinstance(expected, str):
        assert row.rejection.reason == expected
    else:
        assert row.rejection is None
        found = [(part["action"], part["value"], part["position"]) for part in row.meta["actions"]]
        assert found == expected


def test_small_files_share_a_shard_and_broken_ones_are_rejected(folder, results):
    screens(folder, "s/images/a.jpg", "t/images/a.jpg")
    row = {"task_prompt_en": "go", "saved_image_name": "a.jpg", "video_width": 200,
           "video_height": 100, "actions": [mouse("click")]}  # fmt: skip
    write(folder / "s/1.json", row)
    (folder / "s/2.json").write_text('{"a": ')
    (folder / "s/3.json").write_bytes(b'{"a": "\xff"}')
    write(folder / "s/4.json", [row, row])
    write(folder / "s/5.json", {**row, "task_prompt_en": " "})
    write(folder / "s/6.json", {**row, "video_width": 0})
    write(folder / "s/7.json", {**row, "saved_image_name": "b.jpg"})
    write(folder / "s/8.json", {**row, "saved_image_name": "../t/images/a.jpg"})
    write(folder / "t/1.json", {key: row[key] for key in row if not key.startswith("video")})
    samples, rejects = convert(results, folder, "screenagent")
    assert [sample["id"] for sample in samples] == ["n:s/1.json#0", "n:t/1.json#0"]
    assert rejects == {
        "s/2.json#0": "malformed_json", "s/3.json#0": "malformed_json", "s/4.json#0": "bad_row",
        "s/5.json#0": "empty_instruction", "s/6.json#0": "bad_size", "s/7.json#0": "missing_image",
        "s/8.json#0": "unsafe_path",
    }  # fmt: skip
    assert len(list((results / "converted/n").glob("samples-*"))) == 1
    assert samples[1]["meta"]["actions"][0]["position"] == [0.5, 0.5]
