"""ShowUI's layouts: its metadata files and the flat rows of its parquet files."""

from __future__ import annotations

import json

import pytest

from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import (
    check_sums,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
    screen,
    tree_bytes,
    write_showui,
)
from shardline.samples import Box, Point, Sample

BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"images/{number}.png")
    return folder


def read(results, name):
    return [Sample.from_json(sample) for sample in samples_of(results, name)]


def test_the_seeds_metadata_as_it_is_and_with_a_screenshot(shared_data, results, tmp_path):
    source = shared_data / "showui_metadata"
    manifest = lock_and_convert(results, "all", source, "showui", "unit_xyxy")
    assert manifest["rows"]["in"] == 2 and manifest["reasons"] == {"missing_image": 2}
    folder = tmp_path / "raw"
    name = "OmniAct/metadata/hf_train_showui_desktop.json"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes((source / name).read_bytes())
    image = folder / "OmniAct/images/example.png"
    image.parent.mkdir()
    for screenshot, reasons in (("word", {"size_mismatch": 1}), ("chrome", {})):
        image.write_bytes((source / f"examples/{screenshot}.png").read_bytes())
        manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
        check_sums(manifest, rejects_of(results, "su"))
        assert manifest["rows"]["in"] == 1 and manifest["reasons"] == reasons
    (sample,) = read(results, "su")
    assert sample.boxes == [Box(label="Example Button", xyxy=BOX, kind="text")]
    assert sample.points == [Point(label="Example Button", xy=[0.2, 0.3])]
    assert sample.media[0].path == "OmniAct/images/example.png"


def test_flat_parquet_rows_of_showui_desktop(folder, results):
    columns = {
        "image_url": ["0.png", "0.png", "1.png", None],
        "instruction": ["Save", "the button left of Open", None, "x"],
        "bbox": [BOX, BOX, BOX, BOX],
        "point": [[0.2, 0.3], None, [0.2, 0.3], [0.2, 0.3]],
        "type": ["original", "spatial", "original", "original"],
    }
    write_parquet(folder / "data/train-0.parquet", columns, rows=3)
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    check_sums(manifest, rejects_of(results, "su"))
    assert manifest["rows"] == {"in": 4, "kept": 2, "rejected": 2}
    assert manifest["reasons"] == {"bad_instruction": 1, "bad_row": 1}
    first, second = read(results, "su")
    assert first.id == "su:data/train-0.parquet#0"
    assert first.boxes == [Box(label="Save", xyxy=BOX, kind="original")]
    assert second.boxes[0].kind == "spatial" and second.points[0].xy == pytest.approx([0.2, 0.3])


def test_flat_parquet_rows_of_showui_web(folder, results):
    others = [0.5, 0.5, 0.6, 0.6]
    columns = {
        "image_url": ["0.png", "1.png", "2.png", "2.png"],
        "instruction": [["Home", "Cart"], ["a"], ["a", "b"], []],
        "bbox": [[BOX, others], [None], [BOX], []],
        "point": [[[0.2, 0.3], [0.55, 0.55]], [None], [[0.2, 0.3]], []],
        "type": [["text", "icon"], ["text"], ["text"], []],
    }
    write_parquet(folder / "train.parquet", columns)
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    check_sums(manifest, rejects_of(results, "su"))
    (sample,) = read(results, "su")
    assert [(box.label, box.xyxy, box.kind) for box in sample.boxes] == [
        ("Home", BOX, "text"),
        ("Cart", others, "icon"),
    ]
    assert [point.xy for point in sample.points] == [[0.2, 0.3], [0.55, 0.55]]
    found = {reject["row"][-1]: reject for reject in rejects_of(results, "su")}
    assert {row: reject["reason"] for row, reject in found.items()} == {
        "1": "bad_box", "2": "bad_row", "3": "no_elements",
    }  # fmt: skip
    assert found["2"]["detail"] == "1 in `bbox`, 2 in `instruction`"


def test_parquet_rows_with_embedded_images(results, tmp_path):
    folder = tmp_path / "raw"
    columns = {
        "image": [embedded(image_bytes(1)), embedded(b"no image")],
        "instruction": ["Save", "Open"],
        "bbox": [BOX, BOX],
    }
    write_parquet(folder / "train.parquet", columns)
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    assert manifest["reasons"] == {"corrupt_image": 1}
    assert read(results, "su")[0].media[0].path == "train.parquet#0/image.png"


def test_metadata_comes_before_parquet_and_lines_are_read(folder, results):
    write_parquet(folder / "train.parquet", {"image_url": ["0.png"]})
    (folder / "metadata").mkdir()
    rows = [screen("0.png", ["a"]), screen("1.png", ["b"])]
    (folder / "metadata/train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{\n")
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    assert manifest["rows"] == {"in": 3, "kept": 2, "rejected": 1}
    assert rejects_of(results, "su")[0]["row"] == "metadata/train.jsonl#2"
    write_showui(folder, rows[:1])
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    assert manifest["rows"]["in"] == 1


def test_names_of_the_kind_and_numbers_as_text(folder, results):
    element = {"instruction": "a", "bbox": ["0.1", "0.2", "0.3", "0.4"], "class_name": "button"}
    rows = [
        {"img_url": "0.png", "element": [element, {**element, "bbox": "[0.1, 0.2, 0.3, 0.4]"}]},
        {"img_url": "1.png", **element},
        {"img_url": "1.png", "instruction": ["a", "b"], "bbox": [json.dumps(BOX), BOX]},
    ]
    write_showui(folder, rows)
    lock_and_convert(results, "su", folder, "showui", "unit_xyxy", max_reject_share=0)
    samples = read(results, "su")
    assert [len(sample.boxes) for sample in samples] == [2, 1, 2]
    assert all(box.xyxy == BOX for sample in samples for box in sample.boxes)
    assert [sample.boxes[0].kind for sample in samples] == ["button", "button", ""]


def test_a_list_of_records_gives_one_sample_each_and_the_same_bytes_again(folder, results):
    write_showui(folder, [screen(f"{number % 3}.png", ["a", "b"]) for number in range(25)])
    raw = tree_bytes(folder)
    manifest = lock_and_convert(results, "su", folder, "showui", "unit_xyxy", shard_rows=10)
    assert manifest["rows"] == {"in": 25, "kept": 25, "rejected": 0}
    assert manifest["elements"]["kept"] == 50
    before = tree_bytes(results / "converted")
    lock_and_convert(results, "su", folder, "showui", "unit_xyxy", shard_rows=10)
    assert tree_bytes(results / "converted") == before and tree_bytes(folder) == raw
