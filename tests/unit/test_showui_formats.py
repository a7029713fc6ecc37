"""ShowUI's layouts: its metadata files, flat rows of its parquet files, and writing it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import (
    check_sums,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
    screen,
    write_showui,
)
from shardline.formats import showui
from shardline.samples import Box, Medium, Point, Sample, to_unit

BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"images/{number}.png")
    return folder


def read(results, name):
    return [Sample.from_json(sample) for sample in samples_of(results, name)]


def test_the_seeds_metadata_with_a_screenshot(shared_data, results, tmp_path):
    source = shared_data / "showui_metadata"
    folder = tmp_path / "raw"
    name = "OmniAct/metadata/hf_train_showui_desktop.json"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes((source / name).read_bytes())
    image = folder / "OmniAct/images/example.png"
    image.parent.mkdir()
    options = {"annotations": "*/metadata/*.json"}
    for screenshot, reasons in (("word", {"size_mismatch": 1}), ("chrome", {})):
        image.write_bytes((source / f"examples/{screenshot}.png").read_bytes())
        manifest = lock_and_convert(
            results, "su", folder, "showui", "unit_xyxy", format_options=options
        )
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


def test_what_is_written_is_the_seeds_record(tmp_path):
    sample = Sample(
        id="d:a#0",
        dataset="d",
        media=[Medium(kind="image", path="images/a.png", width=200, height=100)],
        boxes=[Box(label="Save é", xyxy=BOX, kind="text")],
        points=[Point(label="Save é", xy=[0.2, 0.3])],
    )
    assert showui.write(tmp_path / "out.json", [sample]) == {}
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {
            "img_url": "a.png",
            "img_size": [200, 100],
            "element": [
                {"instruction": "Save é", "bbox": BOX, "data_type": "text", "point": [0.2, 0.3]}
            ],
            "element_size": 1,
        }
    ]


def test_what_cannot_be_written_is_named(tmp_path):
    image = Medium(kind="image", path="a.png", width=2, height=2)
    box = Box(label="a", xyxy=BOX)
    samples = [
        Sample(id="no box", dataset="d", media=[image]),
        Sample(id="no image", dataset="d", boxes=[box]),
        Sample(id="two", dataset="d", media=[image, image], boxes=[box]),
        Sample(id="video", dataset="d", media=[Medium(kind="video", path="a.mp4")], boxes=[box]),
    ]
    assert showui.write(tmp_path / "out.json", samples) == {
        "no box": "no_elements", "no image": "media", "two": "media", "video": "media",
    }  # fmt: skip
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_a_dataset_survives_the_round_trip(folder, results, tmp_path):
    (folder / "other").mkdir()
    (folder / "images/2.png").rename(folder / "other/2.png")
    rows = [screen(name, ["a", "b"]) for name in ("0.png", "1.png", "other/2.png")]
    rows[0]["element"][1]["point"] = [0.13, 0.31]
    write_showui(folder, rows)
    lock_and_convert(results, "su", folder, "showui", "unit_xyxy", max_reject_share=0)
    before = read(results, "su")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("images", "other"):
        (copy / name).symlink_to(folder / name)
    showui.write(copy / "metadata/train.json", before)
    lock_and_convert(results, "su", copy, "showui", "unit_xyxy", max_reject_share=0)
    assert read(results, "su") == before
    again = (copy / "metadata/train.json").read_bytes()
    showui.write(copy / "metadata/train.json", read(results, "su"))
    assert (copy / "metadata/train.json").read_bytes() == again


def test_real_boxes_in_pixels_survive_the_round_trip(shared_data, results, tmp_path):
    source = shared_data / "screenspot_v2"
    lock_and_convert(results, "ss", source, "screenspot", "pixel_xyxy")
    before = read(results, "ss")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "screenspotv2_image").symlink_to(source / "screenspotv2_image")
    showui.write(copy / "metadata/test.json", before)
    lock_and_convert(results, "su", copy, "showui", "unit_xyxy", max_reject_share=0)
    after = read(results, "su")
    assert len(after) == len(before) == 2
    for old, new in zip(before, after, strict=True):
        assert new.media == old.media
        unit = to_unit(old.boxes[0].xyxy, "pixel", old.media[0].width, old.media[0].height)
        assert new.boxes == [Box(label=old.boxes[0].label, xyxy=unit, kind="icon")]


edges = st.floats(0, 1).filter(lambda value: value == 0 or value > 1e-9)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda edges: [min(edges[0], edges[2]), min(edges[1], edges[3]),
                   max(edges[0], edges[2]), max(edges[1], edges[3])]
)  # fmt: skip
labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    targets=st.lists(st.tuples(labels, boxes, st.sampled_from(["", "text", "icon"])), min_size=1)
)
def test_anything_survives_the_round_trip(tmp_path_factory, targets):
    folder = tmp_path_factory.mktemp("trip")
    sample = Sample(
        id="d:a#0",
        dataset="d",
        media=[Medium(kind="image", path="images/a.png", width=123, height=77)],
        boxes=[Box(label=label, xyxy=box, kind=kind) for label, box, kind in targets],
    )
    showui.write(folder / "metadata/a.json", [sample, sample])
    rows = list(showui.read(folder, {}))
    assert [row.index for row in rows] == [0, 1]
    for row in rows:
        assert row.rejection is None and row.media == sample.media
        found = [(element.label, element.box, element.kind) for element in row.elements]
        assert found == [(label, box, kind) for label, box, kind in targets]
