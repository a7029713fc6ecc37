"""AgentNetBench trajectories: the first format with a module of its own."""

from __future__ import annotations

import ast
import json

import pytest
from PIL import Image

from raw_datasets import check_sums, lock_and_convert, picture, rejects_of, samples_of, save


def test_agentnetbench_equals_showui_written_by_other_code(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    folder = tmp_path / "as_showui"
    (folder / "metadata").mkdir(parents=True)
    (folder / "images").symlink_to(source / "images")
    records = []
    for step in json.loads(next(source.glob("*.json")).read_text())["steps"]:
        call = ast.parse(step["action"]).body[0].value  # pyautogui.click(x=0.3, y=0.2)
        if call.func.attr != "click":
            continue
        point = {keyword.arg: keyword.value.value for keyword in call.keywords}
        x, y, width, height = step["ground_truth_actions"][0]["metadata"]["bboxes"][0]["abs_bbox"]
        with Image.open(source / "images" / step["image"]) as image:
            w, h = image.size
        element = {
            "instruction": step["inner_monologue"]["low_level_instruction"],
            "bbox": [x / w, y / h, (x + width) / w, (y + height) / h],
            "data_type": "icon",
            "point": [point["x"], point["y"]],
        }
        records.append(
            {"img_url": step["image"], "img_size": [w, h], "element": [element], "element_size": 1}
        )
    (folder / "metadata/train.json").write_text(json.dumps(records))
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy", max_reject_share=0)
    assert manifest["rows"]["kept"] == len(records) == 4
    manifest = lock_and_convert(results, "an", source, "agentnetbench", "unit_xywh")
    assert manifest["reasons"] == {"no_click": 3}
    check_sums(manifest, rejects_of(results, "an"))
    for ours, theirs in zip(samples_of(results, "an"), samples_of(results, "su"), strict=True):
        assert ours["boxes"][0]["label"] == theirs["boxes"][0]["label"]
        assert ours["boxes"][0]["xyxy"] == pytest.approx(theirs["boxes"][0]["xyxy"], abs=1e-5)
        assert ours["points"] == theirs["points"]
        assert ours["media"] == theirs["media"]


def test_agentnetbench_boxes_that_disagree_with_the_screenshot(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    folder = tmp_path / "other_size"
    folder.mkdir()
    file = next(source.glob("*.json"))
    (folder / file.name).write_bytes(file.read_bytes())
    for path in (source / "images").iterdir():
        save(picture(1, (1920, 1080)), folder / "images" / path.name)
    (folder / "broken.json").write_text('{"steps": [1,')
    (folder / "other.json").write_text("[]")
    manifest = lock_and_convert(results, "an", folder, "agentnetbench", "unit_xywh")
    assert manifest["reasons"] == {
        "boxes_disagree": 4,
        "no_click": 3,
        "malformed_json": 1,
        "bad_row": 1,
    }
    assert len(manifest["shards"]) == 1  # small files together
    first = rejects_of(results, "an")[0]
    assert first["row"] == "broken.json#0" and "line 1, column 14" in first["detail"]


def click(*boxes, x=0.25, y=0.25, kind="click"):
    return {
        "type": kind,
        "params": {"position": {"x": x, "y": y}},
        "metadata": {"bboxes": [{"rel_bbox": box} for box in boxes]},
    }


def test_which_box_a_click_means(results, tmp_path):
    around, inside = [0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.1, 0.1]
    beside, twice = [0.7, 0.7, 0.1, 0.1], [0.6, 0.6, 0.1, 0.1]
    steps = [
        [click(beside, around, inside)],
        [{"type": "moveTo"}, click(around, kind="doubleClick")],
        [click(beside, twice)],
        [click(around), click(inside)],
        [click()],
        [click(beside)],
        [],
    ]
    step = {"image": "a.png", "inner_monologue": {"low_level_instruction": "press"}}
    rows = [{**step, "ground_truth_actions": actions} for actions in steps]
    content = {"task_id": "t", "steps": [*rows, {**rows[0], "inner_monologue": None}, "step"]}
    folder = tmp_path / "raw"
    save(picture(1, (200, 100)), folder / "images/a.png")
    (folder / "t.json").write_text(json.dumps(content))
    manifest = lock_and_convert(results, "an", folder, "agentnetbench", "unit_xywh")
    assert {
        int(reject["row"].partition("#")[2]): reject["reason"]
        for reject in rejects_of(results, "an")
    } == {
        2: "no_box",
        3: "several_clicks",
        4: "no_box",
        6: "no_click",
        7: "bad_instruction",
        8: "bad_row",
    }
    first, second, outside = samples_of(results, "an")
    assert first["boxes"][0]["xyxy"] == pytest.approx([0.2, 0.2, 0.3, 0.3])
    assert second["meta"] == {"action": "doubleClick", "task_id": "t"}
    assert outside["points"][0]["xy"] == pytest.approx([0.75, 0.75])
    assert manifest["points_replaced"] == 1 and outside["meta"]["points_replaced"] == [0]
