"""Screens converted: real ones with their golden counts, and every way a row can be wrong."""

from __future__ import annotations

import json

import pytest

from raw_datasets import (
    check_sums,
    convert,
    lock,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
    screen,
    write_showui,
)
from shardline.errors import ConfigError, GateError


def test_all_of_screenspot_v2(shared_data, results):
    manifest = lock_and_convert(
        results, "ss", shared_data / "screenspot_v2", "screenspot", "pixel_xyxy"
    )
    assert manifest["cells"] == {
        "desktop/text": 194,
        "desktop/icon": 140,
        "web/text": 234 - 1,
        "web/icon": 203 - 1,
    }
    assert manifest["rows"] == {"in": 769, "kept": 2, "rejected": 767}
    assert manifest["reasons"] == {"missing_image": 767}
    assert manifest["groups"] == {"web/icon": 2}
    check_sums(manifest, rejects_of(results, "ss"))
    sample = samples_of(results, "ss")[0]
    assert sample["frame"] == "pixel" and sample["boxes"][0]["xyxy"] == [1940, 116, 2372, 184]
    assert sample["meta"]["cell"] == "web/icon" and sample["meta"]["platform"] == "tool"
    assert sample["media"][0]["width"] == 2560


def test_screenspot_declared_in_the_wrong_frame_is_rejected(shared_data, results):
    lock(results, "ss", shared_data / "screenspot_v2")
    manifest = convert(results, "ss", "screenspot", "pixel_xywh")
    assert manifest["reasons"] == {"missing_image": 767, "outside_image": 2}
    with pytest.raises(GateError, match="outside_image 2") as caught:
        convert(results, "ss", "screenspot", "pixel_xywh", max_reject_share=0.9)
    assert "web_v2.json#" in str(caught.value)
    assert not (results / "converted/ss/manifest.json").exists()


def test_all_of_showui_metadata(shared_data, results):
    manifest = lock_and_convert(
        results,
        "su",
        shared_data / "showui_metadata",
        "showui",
        "unit_xyxy",
        format_options={"annotations": "*/metadata/*.json"},
    )
    assert manifest["rows"] == {"in": 2, "kept": 0, "rejected": 2}
    assert manifest["reasons"] == {"missing_image": 2}
    check_sums(manifest, rejects_of(results, "su"))


def test_wrong_frame_for_a_format_that_has_its_own(shared_data, results):
    lock(results, "an", shared_data / "agentnetbench_trajectories")
    with pytest.raises(ConfigError, match="unit_xywh"):
        convert(results, "an", "agentnetbench", "pixel_xyxy")
    with pytest.raises(ConfigError, match="declare pixel_xyxy or"):
        convert(results, "an", "showui", None)


def test_every_way_a_showui_row_can_be_wrong(results, tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"images/{number}.png")
    (folder / "images/empty.png").touch()
    data = (folder / "images/0.png").read_bytes()
    (folder / "images/cut.png").write_bytes(data[: len(data) // 2])
    good = screen("0.png", ["  Save ", "Open"])
    good["element"][0]["point"] = [0.9, 0.9]
    mixed = screen("1.png", ["a", " ", "c", 7, "e", "f"])
    mixed["element"][2]["bbox"] = "[0.1, 0.1, 0.2, 0.2]"
    mixed["element"][4]["bbox"] = [0.5, 0.5, 0.4, 0.6]
    mixed["element"][5] = "f"
    flat = {"img_filename": "2.png", "bbox": [0.1, 0.1, 0.2, 0.2], "text": "Close"}
    records = [
        good,
        mixed,
        flat,
        screen("gone.png", ["a", "b"]),
        screen("empty.png", ["a"]),
        screen("cut.png", ["a"]),
        screen("0.png", []),
        screen("../0.png", ["a"]),
        screen("0.png", ["a"], size=(120, 120)),
        screen("0.png", ["a"], size=(0, 80)),
        screen("0.png", ["\ud800"]),
        screen("0.png", ["", " "]),
        {"img_url": "0.png"},
        "text",
    ]
    write_showui(folder, records)
    manifest = lock_and_convert(results, "d", folder, "showui", "unit_xyxy")
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    found = {reject["row"].removeprefix("metadata/train.json#"): reject for reject in rejects}
    assert {row: reject["reason"] for row, reject in found.items()} == {
        "1/1": "empty_instruction",
        "1/3": "bad_instruction",
        "1/4": "swapped_corners",
        "1/5": "bad_instruction",
        "3": "missing_image",
        "4": "empty_file",
        "5": "corrupt_image",
        "6": "no_elements",
        "7": "unsafe_path",
        "8": "size_mismatch",
        "9": "bad_size",
        "10": "bad_text",
        "11/0": "empty_instruction",
        "11/1": "empty_instruction",
        "11": "no_elements_left",
        "12": "bad_row",
        "13": "bad_row",
    }
    assert "images/gone.png" in found["3"]["detail"]
    samples = samples_of(results, "d")
    assert [sample["id"] for sample in samples] == [f"d:metadata/train.json#{n}" for n in range(3)]
    assert [box["label"] for box in samples[0]["boxes"]] == ["Save", "Open"]
    assert samples[0]["meta"]["points_replaced"] == [0] and manifest["points_replaced"] == 1
    assert [box["label"] for box in samples[1]["boxes"]] == ["a", "c"]
    assert samples[2]["boxes"][0]["label"] == "Close"
    assert all(len(sample["points"]) == len(sample["boxes"]) for sample in samples)


def test_clipped_boxes_are_counted(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(1, (2360, 1640)), folder / "screenspot_imgs/m.png")
    row = {"img_filename": "m.png", "instruction": "x", "data_type": "icon", "data_source": "shop"}
    rows = [
        {**row, "bbox": [2300, 10, 61, 20]},
        {**row, "bbox": [10, -1, 20, 20]},
        {**row, "bbox": [10, 10, 20, 0]},
        {**row, "bbox": [10, 10, 20, 20], "data_type": "button"},
    ]
    folder.joinpath("screenspot_mobile.json").write_text(json.dumps(rows))
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
    assert manifest["clipped"] == 2
    assert manifest["reasons"] == {"zero_area": 1, "bad_row": 1}
    assert manifest["cells"] == {"mobile/icon": 3}  # by the file's name, not by data_source
    assert samples_of(results, "ss")[0]["boxes"][0]["xyxy"] == [2300, 10, 2360, 30]


def test_screenspot_as_showui_publishes_it(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(1, (960, 540)), folder / "images/pc_1.png")
    row = {
        "id": "ss_0",
        "split": "desktop",
        "img_url": "pc_1.png",
        "img_size": "[960, 540]",
        "task": "close it",
        "bbox": "[910, 78, 44, 34]",
        "data_type": "icon",
        "data_source": "web",
    }
    untold = {**row, "split": None, "img_url": "a.png"}
    write_showui(folder, [row, untold], "hf_test_full.json")
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
    assert manifest["cells"] == {"desktop/icon": 1} and manifest["reasons"] == {"bad_row": 1}
    (sample,) = samples_of(results, "ss")
    assert sample["boxes"][0] == {"label": "close it", "xyxy": [910, 78, 954, 112], "kind": "icon"}
    (folder / "metadata/screenspot_desktop.json").write_text(json.dumps([row]))
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
    assert manifest["rows"]["in"] == 1  # the same rows once more are not read twice


def test_exif_rotated_screens_are_upright_and_flagged(shared_data, results, tmp_path):
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    for orientation in (1, 6):
        name = f"Landscape_{orientation}.jpg"
        data = (shared_data / "exif_orientation" / name).read_bytes()
        (folder / "images" / name).write_bytes(data)
    rows = [
        {"img_url": "Landscape_6.jpg", "bbox": [1700, 1100, 1790, 1190], "text": "in the corner"},
        {"img_url": "Landscape_6.jpg", "img_size": [1200, 1800], "bbox": [0, 0, 9, 9], "text": "a"},
        {"img_url": "Landscape_1.jpg", "bbox": [0, 0, 9, 9], "text": "a"},
    ]
    write_showui(folder, rows)
    lock_and_convert(results, "d", folder, "showui", "pixel_xyxy", max_reject_share=0)
    turned, as_stored, upright = samples_of(results, "d")
    for sample in (turned, as_stored):
        assert (sample["media"][0]["width"], sample["media"][0]["height"]) == (1800, 1200)
        assert sample["meta"]["exif_orientation"] == 6
    assert "exif_orientation" not in upright["meta"]
    assert turned["boxes"][0]["xyxy"] == [1700, 1100, 1790, 1190]
    assert as_stored["boxes"][0]["xyxy"] == [1791, 0, 1800, 9]  # top left is now top right
