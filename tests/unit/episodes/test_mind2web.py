"""Mind2Web as SeeClick repacks it."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from episode_data import (
    action,
    convert,
    mind2web_action,
    mind2web_episode,
    screens,
    shape,
    write,
)
from raw_datasets import picture, save


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
