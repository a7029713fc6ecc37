"""Episodes as rows: each step with its past, in every layout and every way to tell the past."""

from __future__ import annotations

import ast
import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_datasets import check_sums, lock_and_convert, picture, rejects_of, samples_of, save
from shardline.episodes.steps import Action, Space, Step
from shardline.episodes.turns import INTERLEAVINGS, conversation
from shardline.errors import ConfigError, DataError
from shardline.formats import navigation
from shardline.samples import Medium


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "raw"


def convert(results, folder, layout, **options):
    """Convert a folder; return samples and the reasons of its rejects by row."""
    manifest = lock_and_convert(
        results, "n", folder, "navigation", None, format_options={"layout": layout, **options}
    )
    rejects = rejects_of(results, "n")
    check_sums(manifest, rejects)
    samples = samples_of(results, "n")
    for sample in samples:
        assert shape(sample).count("v") == len(sample["media"])
        assert sample["messages"][-1]["role"] == "assistant" and not sample["boxes"]
    return samples, {reject["row"]: reject["reason"] for reject in rejects}


def shape(sample):
    """The parts of a question: v for an image, else its text."""
    parts = sample["messages"][0]["content"]
    return ["v" if part["type"] == "image" else part["text"] for part in parts]


def answer(sample):
    return sample["messages"][1]["content"][0]["text"]


def action(sample):
    return json.loads(answer(sample))


def screens(folder, *names, size=(200, 100)):
    for seed, name in enumerate(names):
        save(picture(seed, size), folder / name)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# The turns


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
            assert written["position"] == pytest.approx(meant.position, abs=0.5 * 10**-decimals)
            assert all(0 <= value <= 1 for value in written["position"])


# AgentNet


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


# ScreenAgent


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


def mouse(kind, x=100, y=50, **fields):
    return {"action_type": "MouseAction", "mouse_action_type": kind,
            "mouse_position": {"width": x, "height": y}, **fields}  # fmt: skip


def keyboard(**fields):
    return {"action_type": "KeyboardAction", **fields}


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


# Mind2Web


def mind2web_action(uid, op="CLICK", value="", box=(20, 10, 40, 20), **fields):
    bbox = None if box is None else dict(zip(("x", "y", "width", "height"), box, strict=True))
    operation = {"original_op": op, "value": value, "op": op}
    return {"action_uid": uid, "operation": operation, "bbox": bbox, **fields}


def mind2web_episode(*steps, name="e", **fields):
    return {
        "annotation_id": name, "confirmed_task": "buy a car", "website": "cars",
        "domain": "Travel", "subdomain": "Car", "actions": list(steps),
        "action_reprs": ["[link]  Used cars -> CLICK"] * len(steps), **fields,
    }  # fmt: skip


def test_mind2web_as_seeclick_repacks_it(folder, results):
    screens(folder, *(f"images/e-{uid}.jpg" for uid in "abdefg"))
    episode = mind2web_episode(
        mind2web_action("a"),
        mind2web_action("b", "TYPE", "08817"),
        mind2web_action("c"),
        mind2web_action("d", "SELECT", "02:30 PM"),
        mind2web_action("e", box=None),
        mind2web_action("f", box=(180, 90, 21, 11)),
        mind2web_action("g", box=(180, 90, 40, 11)),
        action_reprs=["[link]  Used cars -> CLICK", "[textbox]  zip -> TYPE: 08817", "",
                      "[select]  Pick-up Time -> SELECT: 02:30 PM", "", "[svg]   -> CLICK", ""],
    )  # fmt: skip
    write(folder / "metadata/mind2web_data_train.json", [episode])
    samples, rejects = convert(results, folder, "mind2web", interleaving="vtvt", history=2)
    file = "metadata/mind2web_data_train.json"
    assert rejects == {
        f"{file}#0.2": "missing_image", f"{file}#0.4": "no_box", f"{file}#0.6": "outside_image",
    }  # fmt: skip
    assert [action(sample) for sample in samples] == [
        {"action": "CLICK", "value": "Used cars", "position": [0.2, 0.2]},
        {"action": "TYPE", "value": "08817", "position": [0.2, 0.2]},
        {"action": "SELECT", "value": "Pick-up Time", "position": [0.2, 0.2]},
        {"action": "CLICK", "value": None, "position": [0.95, 0.95]},
    ]
    assert [sample["meta"]["history"] for sample in samples] == [[], [0], [0, 1], [1, 3]]
    last = samples[-1]
    assert [medium["path"][-5] for medium in last["media"]] == ["b", "d", "f"]
    assert last["meta"]["split"] == "train" and last["meta"]["action_uid"] == "f"
    assert samples[2]["meta"]["selected"] == "02:30 PM" and last["meta"]["website"] == "cars"
    manifest = json.loads((results / "converted/n/manifest.json").read_text())
    assert manifest["clipped"] == 1


def test_a_position_is_where_the_upright_screenshot_has_it(folder, results):
    image = picture(1, (100, 200))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned: 200 x 100
    save(image, folder / "images/e-a.jpg", exif=exif)
    write(folder / "mind2web_data_train.json", [mind2web_episode(mind2web_action("a"))])
    (sample,), _ = convert(results, folder, "mind2web")
    assert action(sample)["position"] == [0.2, 0.2]
    assert (sample["media"][0]["width"], sample["media"][0]["height"]) == (200, 100)


def test_real_steps_of_mind2web(shared_data, results, folder):
    """UGround's rows of real steps, as SeeClick would have them; the screenshots are drawn."""
    file = (
        shared_data / "uground_eval_meta/Multimodal-Mind2Web/data/samples/cross_task_blocks.jsonl"
    )
    episodes = defaultdict(list)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        episodes[row["annotation_id"]].append(row)
    content, expected, without_box = [], [], 0
    for name, rows in episodes.items():
        reprs = [rows[-1]["previous_actions"][row["step"]] if row["step"] < rows[-1]["step"] else ""
                 for row in rows]  # fmt: skip
        steps = []
        for row, told in zip(rows, reprs, strict=True):
            box = row["bbox"][0] if row["bbox"] else None
            steps.append(mind2web_action(row["action_uid"], row["operation"], row["value"], box))
            save(picture(1, (1280, 1900)), folder / f"images/{name}-{row['action_uid']}.jpg")
            without_box += not row["bbox"]
            if row["bbox"]:
                x, y = (box[0] + box[2] / 2) / 1280, (box[1] + box[3] / 2) / 1900
                expected.append((row["operation"], row["value"], told, [x, y], row["task"]))
        content.append(
            mind2web_episode(*steps, name=name, confirmed_task=rows[0]["task"], action_reprs=reprs)
        )
    write(folder / "mind2web_data_test_task.json", content)
    samples, rejects = convert(results, folder, "mind2web")
    assert len(samples) == 91 and list(rejects.values()) == ["no_box"] * without_box
    assert len({sample["group"] for sample in samples}) == 15
    for sample, (op, value, told, position, task) in zip(samples, expected, strict=True):
        found = action(sample)
        assert found["action"] == op and found["position"] == pytest.approx(position, abs=0.0051)
        if op == "TYPE":
            assert found["value"] == value
        elif found["value"] is not None:
            assert f"]  {found['value']} " in told
        text = shape(sample)[0].partition(f"Task: {task}\n")[2]
        assert len(text.splitlines()) == len(sample["meta"]["history"]) <= 4


def test_mind2web_records_that_are_none(folder, results):
    screens(folder, "images/e-a.jpg", "images/e-b.jpg", "images/e-c.jpg")
    (folder / "images/e-c.jpg").write_bytes(b"no image")
    records = [
        7,
        {"annotation_id": "e"},
        {**mind2web_episode(mind2web_action("a")), "annotation_id": None},
        mind2web_episode(
            "step",
            mind2web_action(None),
            mind2web_action("a", "FLY"),
            mind2web_action("a", "TYPE", None),
            mind2web_action("a", box=(1, 2, float("nan"), 4)),
            mind2web_action("a", box=(1, 2, 3, 0)),
            mind2web_action("x/../../a"),
            mind2web_action("c"),
            mind2web_action("b"),
            action_reprs=None,
        ),
        mind2web_episode(mind2web_action("a"), confirmed_task=["x"]),
    ]
    write(folder / "mind2web_data_train.json", records)
    samples, rejects = convert(results, folder, "mind2web")
    assert list(rejects.values()) == [
        "bad_row", "bad_row", "bad_action", "bad_row", "bad_action", "bad_action", "bad_action",
        "bad_box", "zero_area", "unsafe_path", "corrupt_image", "bad_instruction",
    ]  # fmt: skip
    assert [sample["id"] for sample in samples] == ["n:mind2web_data_train.json#3.8"]
    assert samples[0]["meta"]["history"] == [] and action(samples[0])["value"] is None


# Android in the Wild


def aitw_step(text="click", kind=4, image="general/1_0", **fields):
    return {"ep_id": "1", "goal": "open maps", "img_filename": image, "action_type_id": kind,
            "action_type_text": text, "touch": [0.25, 0.5], "lift": [0.35, 0.5], "type_text": "",
            **fields}  # fmt: skip


def test_android_in_the_wild(folder, results):
    screens(folder, *(f"aitw_images/general/1_{number}.png" for number in range(5)))
    image = [f"general/1_{number}" for number in range(6)]
    general = [
        aitw_step(image=image[0]),
        aitw_step("type", 3, image[1], type_text="maps", touch=[-1.0, -1.0]),
        aitw_step("scroll down", 4, image[5]),
        aitw_step("scroll up", 4, image[2]),
        aitw_step("status task complete", 10, image[3]),
    ]
    single = [aitw_step(image=image[4], ep_id=2, lift=[-1.0, -1.0]),
              aitw_step("fly", image=image[4]), aitw_step(kind=5, image=image[4]), 3]  # fmt: skip
    content = {"general": [general], "single": [single, [], 5], "install": 7}
    write(folder / "aitw_data_train.json", content)
    samples, rejects = convert(results, folder, "aitw", interleaving="ttvv")
    assert [action(sample) for sample in samples] == [
        {"action": "CLICK", "value": None, "position": [0.3, 0.5]},
        {"action": "TYPE", "value": "maps", "position": None},
        {"action": "SCROLL UP", "value": None, "position": None},
        {"action": "STATUS TASK COMPLETE", "value": None, "position": None},
    ]
    assert [sample["meta"]["step"] for sample in samples] == [0, 1, 3, 4]
    assert [sample["meta"]["history"] for sample in samples] == [[], [0], [0, 1], [0, 1, 3]]
    assert {sample["group"] for sample in samples} == {"1"}
    assert samples[0]["meta"]["subset"] == "general"
    assert rejects == {
        f"aitw_data_train.json#{number}": reason
        for number, reason in (
            ("0.2", "missing_image"), ("1.0", "outside_image"), ("1.1", "bad_action"),
            ("1.2", "bad_action"), ("1.3", "bad_row"), ("2", "bad_row"), ("3", "bad_row"),
            ("4", "bad_row"),
        )
    }  # fmt: skip


# GUIAct


def guiact_step(uid, *labels, question="search", **fields):
    image = uid if "episode" in uid else uid.replace("uid", "web")
    return {"uid": uid, "image_id": image, "image_size": {"width": 200, "height": 100},
            "question": question, "actions_history": "", "logs": "", "thoughts": "think",
            "actions_label": list(labels), **fields}  # fmt: skip


def related(value, **fields):
    return {"related": value, "absolute": "<box>1, 2, 3, 4</box>", **fields}


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


# All layouts


def test_a_damaged_screenshot_of_the_past_rejects_what_shows_it(folder, results):
    screens(folder, "images/1.png", "images/2.png", "images/3.png")
    data = (folder / "images/1.png").read_bytes()
    (folder / "images/1.png").write_bytes(data[: len(data) // 2])
    steps = [
        {"image": f"{number}.png", "ground_truth_actions": [{"type": "wait", "params": {}}]}
        for number in (1, 2, 3)
    ]
    write(folder / "t.json", {"task_id": "t", "instruction": "go", "steps": steps})
    samples, rejects = convert(results, folder, "agentnet", history=1)
    assert rejects == {"t.json#0.0": "corrupt_image"} and len(samples) == 2
    samples, rejects = convert(results, folder, "agentnet", history=1, interleaving="vtvt")
    assert list(rejects) == ["t.json#0.0", "t.json#0.1"] and len(samples) == 1
    samples, rejects = convert(results, folder, "agentnet", history=0, interleaving="vtvt")
    assert len(samples) == 2 and samples[1]["meta"]["history"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "layout is None, none of agentnet, aitw, guiact, mind2web, screenagent"),
        ({"layout": ["aitw"]}, "layout"),
        ({"layout": "aitw", "interleaving": "vttv"}, "interleaving is 'vttv'"),
        ({"layout": "aitw", "history": -1}, "history is -1"),
        ({"layout": "aitw", "history": True}, "history is True"),
        ({"layout": "aitw", "decimals": 2.0}, "decimals"),
        ({"layout": "aitw", "answer": "yaml"}, "answer"),
        ({"layout": "aitw", "prompt": 3}, "prompt is 3"),
        ({"layout": "aitw", "num_history": 3}, "no option num_history"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        list(navigation.read(tmp_path, options))


def test_a_frame_is_refused_and_missing_files_are_named(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    with pytest.raises(ConfigError, match="declare none"):
        lock_and_convert(
            results, "n", source, "navigation", "unit_xyxy", format_options={"layout": "agentnet"}
        )
    with pytest.raises(DataError, match=r"mind2web_data_\*\.json"):
        list(navigation.read(source, {"layout": "mind2web"}))
    (tmp_path / "aitw_data_test.json").write_text("[")
    with pytest.raises(DataError, match=r"aitw_data_test\.json"):
        list(navigation.read(tmp_path, {"layout": "aitw"}))


def test_malformed_files_never_end_in_a_traceback(shared_data, tmp_path):
    names = {
        "agentnet": "t.jsonl", "aitw": "aitw_data_a.json", "guiact": "web-single_a_data.json",
        "mind2web": "mind2web_data_a.json", "screenagent": "s/a.json",
    }  # fmt: skip
    for source in sorted((shared_data / "malformed_json").glob("*.json")):
        for layout, name in names.items():
            path = tmp_path / source.stem / layout / name
            path.parent.mkdir(parents=True)
            path.write_bytes(source.read_bytes())
            try:
                rows = list(navigation.read(tmp_path / source.stem / layout, {"layout": layout}))
            except DataError:
                continue
            assert all(row.rejection for row in rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
GOOD = {
    "agentnet": {"task_id": "t", "instruction": "go", "steps": [
        {"image": "a.png", "step_num": 1, "ground_truth_actions": [
            {"type": "click", "params": {"position": {"x": 0.5, "y": 0.5}}}]}]},
    "aitw": {"general": [[aitw_step(image="a")]]},
    "guiact": [guiact_step("u_step_0", {"name": "click", "element": related("<box>0,0,1,1</box>")},
                           image_id="a")],
    "mind2web": [mind2web_episode(mind2web_action("a"))],
    "screenagent": {"task_prompt": "go", "saved_image_name": "a.png", "video_width": 200,
                    "video_height": 100, "actions": [mouse("click"), keyboard(keyboard_key="a")]},
}  # fmt: skip
NAMES = {"agentnet": "t.json", "aitw": "aitw_data_a.json", "guiact": "web-multi_a_data.json",
         "mind2web": "mind2web_data_a.json", "screenagent": "s/a.json"}  # fmt: skip


def replaced(data, value, content):
    """``content`` with one value in it, anywhere, replaced by another."""
    if isinstance(content, dict) and content and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(content)))
        return {**content, key: replaced(data, value, content[key])}
    if isinstance(content, list) and content and data.draw(st.integers(0, 4)):
        index = data.draw(st.integers(0, len(content) - 1))
        return [*content[:index], replaced(data, value, content[index]), *content[index + 1 :]]
    return value


@pytest.mark.parametrize("layout", sorted(GOOD))
def test_any_value_anywhere_is_a_row_or_a_reject(tmp_path, layout):
    folder = tmp_path / "raw"
    screens(folder, "a.png", "e-a.jpg", "s/a.png")
    write(folder / NAMES[layout], GOOD[layout])
    (row,) = navigation.read(folder, {"layout": layout})
    assert row.rejection is None

    @settings(max_examples=60)
    @given(data=st.data(), value=json_values)
    def check(data, value):
        write(folder / NAMES[layout], replaced(data, value, GOOD[layout]))
        try:
            rows = list(navigation.read(folder, {"layout": layout, "interleaving": "vtvt"}))
        except DataError:
            return
        for row in rows:
            assert row.rejection or json.dumps([row.meta, row.messages], allow_nan=False).encode()

    check()
