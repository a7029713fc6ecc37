"""Episodes of AgentNetBench and AgentNet, and the code that AgentNet's actions are."""

from __future__ import annotations

import json

import pytest

from episode_data import (
    action,
    answer,
    convert,
    screens,
    shape,
)
from shardline.formats import navigation


def test_real_steps_of_agentnetbench(shared_data, results):
    source = shared_data / "agentnetbench_trajectories"
    samples, rejects = convert(results, source, "agentnet", history=2, interleaving="vtvt")
    assert not rejects and [action(sample) for sample in samples] == [
        {"action": "CLICK", "value": None, "position": [0.33, 0.27]},
        {"action": "TYPE", "value": "george orwell", "position": None},
        {"action": "CLICK", "value": None, "position": [0.53, 0.27]},
        [
            {"action": "MOVE", "value": None, "position": [0.78, 0.46]},
            {"action": "SCROLL", "value": "down", "position": [0.78, 0.46]},
        ],
        {"action": "CLICK", "value": None, "position": [0.73, 0.75]},
        {"action": "CLICK", "value": None, "position": [0.73, 0.19]},
        {"action": "TERMINATE", "value": "success", "position": None},
    ]
    assert [sample["meta"]["step"] for sample in samples] == [2, 3, 4, 6, 7, 9, 10]
    fourth = samples[3]
    assert fourth["id"] == "n:s_df0fd37049f470c2.json#0.3" and fourth["frame"] == "unit"
    assert fourth["group"] == fourth["meta"]["episode"] == "s_df0fd37049f470c2"
    assert fourth["meta"]["history"] == [3, 4]
    assert fourth["meta"]["actions"][1]["position"] == [0.7792, 0.4648]
    assert [medium["path"] for medium in fourth["media"]] == [
        f"images/s_df0fd37049f470c2_{number}.png" for number in (3, 4, 6)
    ]
    prompt, *told = shape(fourth)
    assert prompt.startswith("You operate a computer.") and "Task: Search for George" in prompt
    assert told == ["v", answer(samples[1]) + "\n", "v", answer(samples[2]) + "\n", "v"]
    assert shape(samples[0])[1:] == ["v"]


def test_the_code_of_agentnet_says_what_the_benchmark_does(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    (task,) = [json.loads(path.read_text()) for path in source.glob("*.json")]
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "images").symlink_to(source / "images")
    traj = [
        {"index": step["step_num"], "image": step["image"], "value": {"code": step["action"]}}
        for step in task["steps"]
    ]
    row = {"task_id": task["task_id"], "instruction": task["high_level_task_description"]}
    (folder / "tasks.jsonl").write_text(json.dumps({**row, "traj": traj}) + "\n{\n")
    ours, rejects = convert(results, folder, "agentnet")
    assert rejects == {"tasks.jsonl#1": "malformed_json"}
    theirs, _ = convert(tmp_path / "other", source, "agentnet")
    for one, other in zip(ours, theirs, strict=True):
        told, meant = action(one), action(other)
        if "SCROLL" in answer(one):  # the code does not repeat where the pointer is
            assert told[1].pop("position") is None and meant[1].pop("position") == [0.78, 0.46]
        assert told == meant
        assert one["media"] == other["media"] and one["group"] == other["group"]
        assert one["meta"]["step"] == other["meta"]["step"]
        assert one["meta"]["history"] == other["meta"]["history"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pyautogui.click(0.1, 0.2)", ("CLICK", None, [0.1, 0.2])),
        ("pyautogui.click(x=0.1, y=0.2, button='right')", ("RIGHT_CLICK", None, [0.1, 0.2])),
        ("pyautogui.click(x=0.1, y=0.2, clicks=2)", ("DOUBLE_CLICK", None, [0.1, 0.2])),
        ("computer.triple_click(x=0.1, y=0.2)", ("TRIPLE_CLICK", None, [0.1, 0.2])),
        ("pyautogui.dragTo(x=1, y=0, button='left')", ("DRAG", None, [1.0, 0.0])),
        ("pyautogui.hotkey(['ctrl', 'c'])", ("HOTKEY", "ctrl+c", None)),
        ("pyautogui.hotkey('ctrl', 'c')", ("HOTKEY", "ctrl+c", None)),
        ("pyautogui.press(keys=['down', 'down'])", ("PRESS", "down down", None)),
        ("pyautogui.press('enter')", ("PRESS", "enter", None)),
        ("pyautogui.write('a\\'\\n')  # done", ("TYPE", "a'\n", None)),
        ("pyautogui.scroll(5)", ("SCROLL", "up", None)),
        ("pyautogui.hscroll(5, x=0.5, y=0.5)", ("SCROLL", "right", [0.5, 0.5])),
        ("computer.wait()", ("WAIT", None, None)),
        ("computer.wait(1.5)", ("WAIT", "1.5", None)),
        ("pyautogui.click()", "no_position"),
        ("pyautogui.click(x=1.2, y=0.2)", "outside_image"),
        ("pyautogui.click(x='a', y=0.2)", "bad_point"),
        ("pyautogui.click(x=1e999, y=0.2)", "bad_point"),
        ("pyautogui.scroll(0)", "bad_action"),
        ("pyautogui.write()", "bad_action"),
        ("pyautogui.write('\\ud800')", "bad_text"),
        ("pyautogui.press([])", "bad_action"),
        ("pyautogui.paint(x=1)", "bad_action"),
        ("__import__('os').system('true')", "bad_action"),
        ("pyautogui.write(open('/etc/passwd'))", "bad_action"),
        ("x = 1", "bad_action"),
        ("pyautogui.click(", "bad_action"),
        ("(" * 5000, "bad_action"),
        ("  ", "no_action"),
        (None, "no_action"),
    ],
)
def test_pieces_of_code(folder, code, expected):
    screens(folder, "a.png")
    step = {"image": "a.png", "value": {"code": code}}
    row = {"task_id": "t", "instruction": "go", "traj": [step]}
    (folder / "tasks.jsonl").write_text(json.dumps(row))
    (row,) = navigation.read(folder, {"layout": "agentnet"})
    if isinstance(expected, str):
        assert row.rejection.reason == expected
    else:
        assert row.rejection is None
        (found,) = row.meta["actions"]
        assert (found["action"], found["value"], found["position"]) == expected


def test_a_step_marked_as_wrong_happened_but_is_not_taught(folder, results):
    screens(folder, "images/a.png", "images/b.png")
    traj = [
        {"index": number, "image": f"{'ab'[number]}.png",
         "value": {"code": f"pyautogui.press('{number}')", "last_step_correct": number == 1}}
        for number in range(2)
    ]  # fmt: skip
    row = {"task_id": "t", "instruction": "go", "traj": traj}
    (folder / "tasks.jsonl").write_text(json.dumps(row))
    samples, rejects = convert(results, folder, "agentnet")
    assert rejects == {"tasks.jsonl#0.0": "marked_wrong"}
    assert samples[0]["meta"]["history"] == [0] and '"value": "0"' in shape(samples[0])[0]
