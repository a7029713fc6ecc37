"""GUIAct, on the phone and on the web."""

from __future__ import annotations

from episode_data import (
    action,
    convert,
    guiact_step,
    related,
    screens,
    shape,
    write,
)


def test_guiact_on_the_phone(folder, results):
    episode = "uid_episode_10270193012375700035_step_0"
    screens(folder, *(f"images/smartphone/{episode}{number}.png" for number in range(4)))
    steps = [
        guiact_step(f"{episode}1", {"name": "input", "text": "capital of Brazil"}),
        guiact_step(f"{episode}0", actions_label={"name": "tap", "point": {
            "absolute": "<point>362, 1412</point>", "related": "<point>0.503, 0.981</point>"}}),
        guiact_step(f"{episode}2", {"name": "swipe", "dual_point": {"related": {
            "from": "<point>0.5, 0.8</point>", "to": "<point>0.5, 0.2</point>"}}}),
        guiact_step(f"{episode}3", {"name": "answer", "text": "task complete"}),
        guiact_step(f"{episode}0", {"name": "enter"}, question="another task"),
    ]  # fmt: skip
    write(folder / "smartphone_test_data.json", steps)
    samples, rejects = convert(results, folder, "guiact", interleaving="vvvv")
    assert not rejects and [action(sample) for sample in samples] == [
        {"action": "INPUT", "value": "capital of Brazil", "position": None},
        {"action": "TAP", "value": None, "position": [0.5, 0.98]},
        {"action": "SWIPE", "value": None, "position": [[0.5, 0.8], [0.5, 0.2]]},
        {"action": "ANSWER", "value": "task complete", "position": None},
        {"action": "ENTER", "value": None, "position": None},
    ]
    assert [sample["meta"]["history"] for sample in samples] == [[0], [], [0, 1], [0, 1, 2], []]
    name = "uid_episode_10270193012375700035"
    assert [sample["group"] for sample in samples] == [name] * 4 + [f"{name}#2"]
    assert "You operate a smartphone." in shape(samples[0])[0] and "TAP:" in shape(samples[0])[0]


def test_guiact_on_the_web(folder, results):
    box = related("<box>0.1, 0.2, 0.3, 0.4</box>")
    ends = {"from": "<point>0.1, 0.2</point>", "to": "<point>0.3, 1</point>"}
    steps = [
        guiact_step("uid_record_1", {"name": "click", "element": box}),
        guiact_step(
            "uid_record_2",
            {"name": "input", "text": "shoes", "element": box},
            {"name": "Enter"},
            {"name": "scroll", "scroll": related({"down": "0.6", "right": "0.0"})},
            {"name": "select_text", "dual_point": related(ends)},
            {"name": "copy_text"},
        ),
        guiact_step("uid_record_3", {"name": "scroll", "scroll": related({"down": "-0.1"})}),
        guiact_step(
            "uid_record_4", {"name": "hover", "element": related("<box>0,0,1.004,1</box>")}
        ),
    ]
    wrong = [
        ("bad_action", {"name": "scroll", "scroll": related({"down": "0.0", "right": "0"})}),
        ("bad_action", {"name": "fly"}),
        ("bad_action", {"name": None}),
        ("bad_action", "click"),
        ("no_box", {"name": "click"}),
        ("bad_box", {"name": "click", "element": related("here")}),
        ("bad_box", {"name": "click", "element": related(None)}),
        ("bad_box", {"name": "click", "element": related("<box>0.1, 0.2</box>")}),
        ("swapped_corners", {"name": "click", "element": related("<box>0.3,0.2,0.1,0.4</box>")}),
        ("bad_point", {"name": "select_text", "dual_point": related("0.1, 0.2")}),
        ("outside_image", {"name": "select_text", "dual_point": related({**ends, "to": "2, 0"})}),
        ("bad_action", {"name": "answer"}),
    ]
    steps += [guiact_step(f"uid_record_{100 + number}", label)
              for number, (_, label) in enumerate(wrong)]  # fmt: skip
    steps += [guiact_step("uid_record_200"), guiact_step("uid_record_300", {"name": "enter"}), "x"]
    screens(folder, *(f"images/{step['image_id']}.jpg" for step in steps[:-2]))
    write(folder / "web-single_train_data.json", steps)
    samples, rejects = convert(results, folder, "guiact")
    assert action(samples[0]) == {"action": "CLICK", "value": None, "position": [0.2, 0.3]}
    assert action(samples[1]) == [
        {"action": "INPUT", "value": "shoes", "position": [0.2, 0.3]},
        {"action": "ENTER", "value": None, "position": None},
        {"action": "SCROLL", "value": "down", "position": None},
        {"action": "SELECT_TEXT", "value": None, "position": [[0.1, 0.2], [0.3, 1.0]]},
        {"action": "COPY", "value": None, "position": None},
    ]
    assert action(samples[2])["value"] == "up" and action(samples[3])["position"] == [0.5, 0.5]
    assert len({sample["group"] for sample in samples}) == len(samples) == 4
    assert all(sample["meta"]["history"] == [] for sample in samples)
    assert samples[0]["meta"]["thoughts"] == "think"
    assert list(rejects.values()) == [
        *(reason for reason, _ in wrong), "no_action", "missing_image", "bad_row",
    ]  # fmt: skip
