"""Samples as ShowUI's metadata file: the seed's record, and nothing lost on the way back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import export_showui_metadata
from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import (
    command_line,
    lock_and_convert,
    picture,
    samples_of,
    save,
    screen,
    tree_bytes,
    write_showui,
)
from shardline.errors import ConfigError, DataError
from shardline.exporting.showui_metadata import write_metadata
from shardline.files import read_json, read_jsonl
from shardline.formats import showui
from shardline.samples import Box, Medium, Point, Sample, to_unit
from token_data import write_filtered

BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"images/{number}.png")
    return folder


def read(results, name):
    return [Sample.from_json(sample) for sample in samples_of(results, name)]


def export(results, name, out, manifest=None, **options):
    """Export a converted dataset into ``out``; return the records and the rejects."""
    export_showui_metadata.main(
        command_line(
            manifest=manifest or results / "converted" / name / "manifest.json",
            output=out / "metadata/train.json",
            rejects=out / "rejects.jsonl",
            **options,
        )
    )
    return read_json(out / "metadata/train.json"), list(read_jsonl(out / "rejects.jsonl"))


def test_what_is_written_is_the_seeds_record(tmp_path):
    sample = Sample(
        id="d:a#0",
        dataset="d",
        media=[Medium(kind="image", path="images/a.png", width=200, height=100)],
        boxes=[Box(label="Save é", xyxy=BOX, kind="text")],
        points=[Point(label="Save é", xy=[0.2, 0.3])],
    )
    left_out = []
    assert write_metadata(tmp_path / "out.json", [sample], lambda *why: left_out.append(why)) == 1
    assert not left_out
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


def test_what_cannot_be_written_is_told(tmp_path):
    image = Medium(kind="image", path="a.png", width=2, height=2)
    inside = Medium(kind="image", path="a.parquet#3/image.png", width=2, height=2)
    box = Box(label="a", xyxy=BOX)
    samples = [
        Sample(id="no box", dataset="d", media=[image]),
        Sample(id="no image", dataset="d", boxes=[box]),
        Sample(id="two", dataset="d", media=[image, image], boxes=[box]),
        Sample(id="video", dataset="d", media=[Medium(kind="video", path="a.mp4")], boxes=[box]),
        Sample(id="embedded", dataset="d", media=[inside], boxes=[box]),
    ]
    left_out = {}
    kept = write_metadata(
        tmp_path / "out.json", samples, lambda sample, why: left_out.update({sample.id: why.reason})
    )
    assert kept == 0 and json.loads((tmp_path / "out.json").read_text()) == []
    assert left_out == {
        "no box": "no_elements", "no image": "not_one_image", "two": "not_one_image",
        "video": "not_one_image", "embedded": "in_parquet",
    }  # fmt: skip


def test_a_dataset_survives_the_round_trip(folder, results, tmp_path):
    (folder / "other").mkdir()
    (folder / "images/2.png").rename(folder / "other/2.png")
    rows = [
        screen(name, ["a", "b"], id=f"r{number}", split="train")
        for number, name in enumerate(("0.png", "1.png", "other/2.png"))
    ]
    rows[0]["element"][1]["point"] = [0.13, 0.31]
    write_showui(folder, rows)
    lock_and_convert(results, "su", folder, "showui", "unit_xyxy", max_reject_share=0)
    before = read(results, "su")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("images", "other"):
        (copy / name).symlink_to(folder / name)
    _, rejects = export(results, "su", copy)
    assert not rejects
    lock_and_convert(results, "su", copy, "showui", "unit_xyxy", max_reject_share=0)
    assert read(results, "su") == before
    again = tree_bytes(copy / "metadata")
    export(results, "su", copy)
    assert tree_bytes(copy / "metadata") == again


def test_real_boxes_in_pixels_survive_the_round_trip(shared_data, results, tmp_path):
    source = shared_data / "screenspot_v2"
    lock_and_convert(results, "ss", source, "screenspot", "pixel_xyxy")
    before = read(results, "ss")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "screenspotv2_image").symlink_to(source / "screenspotv2_image")
    export(results, "ss", copy)
    lock_and_convert(results, "su", copy, "showui", "unit_xyxy", max_reject_share=0)
    after = read(results, "su")
    assert len(after) == len(before) == 2
    for old, new in zip(before, after, strict=True):
        assert new.media == old.media and new.meta["platform"] == old.meta["platform"]
        unit = to_unit(old.boxes[0].xyxy, "pixel", old.media[0].width, old.media[0].height)
        assert new.boxes == [Box(label=old.boxes[0].label, xyxy=unit, kind="icon")]


def test_real_clicks_survive_the_round_trip(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    lock_and_convert(results, "an", source, "agentnetbench", "unit_xywh")
    before = read(results, "an")
    copy = tmp_path / "copy"
    options = {"raw": results / "raw/an", "images": copy / "images"}
    export(results, "an", copy, **options)
    lock_and_convert(results, "su", copy, "showui", "unit_xyxy", max_reject_share=0)
    after = read(results, "su")
    assert len(after) == len(before) == 4
    for old, new in zip(before, after, strict=True):
        assert (new.media, new.boxes, new.points) == (old.media, old.boxes, old.points)


def test_a_filtered_dataset_with_the_screenshots_of_its_parquet_rows(results, tmp_path):
    folder = tmp_path / "raw"
    rows = {
        "image": [embedded(image_bytes(seed)) for seed in (1, 1, 2)],
        "instruction": ["Save", "Save", "Open"],
        "bbox": [BOX, BOX, BOX],
        "type": ["original", "original", "spatial"],
    }
    write_parquet(folder / "data/train-0.parquet", rows)
    lock_and_convert(results, "p", folder, "showui", "unit_xyxy", max_reject_share=0)
    before = read(results, "p")
    kept = [(before[0], image_bytes(1)), (before[2], image_bytes(2))]
    manifest = write_filtered(results, kept, shard_size=1)
    out = tmp_path / "out"
    records, rejects = export(results, "p", out, manifest)
    assert records == [] and [reject["row"] for reject in rejects] == [
        "data/train-0.parquet#0", "data/train-0.parquet#2",
    ]  # fmt: skip
    assert {reject["reason"] for reject in rejects} == {"in_parquet"}
    copying = {"raw": results / "raw/p", "images": out / "images"}
    for _ in range(2):
        records, rejects = export(results, "p", out, manifest, **copying)
        assert not rejects and [record["img_url"] for record in records] == [
            "data/train-0/0/image.png", "data/train-0/2/image.png",
        ]  # fmt: skip
    assert (out / "images" / records[1]["img_url"]).read_bytes() == image_bytes(2)
    lock_and_convert(results, "su", out, "showui", "unit_xyxy", max_reject_share=0)
    first, second = read(results, "su")
    assert (first.boxes, first.points) == (before[0].boxes, before[0].points)
    assert second.boxes == before[2].boxes and second.media[0].sha256 == before[2].media[0].sha256
    (out / "images" / records[0]["img_url"]).write_bytes(b"x")
    with pytest.raises(DataError, match="another picture"):
        export(results, "p", out, manifest, **copying)


def test_inputs_that_are_none_are_named(folder, results, tmp_path):
    write_showui(folder, [screen("0.png", ["a"])])
    lock_and_convert(results, "su", folder, "showui", "unit_xyxy")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--raw"):
        export(results, "su", out, images=out / "images")
    with pytest.raises(DataError, match="no manifest of a converted or filtered"):
        export(results, "su", out, folder / "metadata/train.json")
    with pytest.raises(DataError, match="no such file"):
        export(results, "su", out, tmp_path / "manifest.json")
    save(picture(5), folder / "images/0.png")
    with pytest.raises(DataError, match=r"0\.png changed since it was converted"):
        export(results, "su", out, raw=folder, images=out / "images")
    (shard,) = (results / "converted/su").glob("samples-*")
    shard.write_bytes(b"")
    with pytest.raises(DataError, match="samples-00000"):
        export(results, "su", out)
    assert not list(out.rglob("*.json*"))


edges = st.floats(0, 1).filter(lambda value: value == 0 or value > 1e-9)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda edges: [min(edges[0], edges[2]), min(edges[1], edges[3]),
                   max(edges[0], edges[2]), max(edges[1], edges[3])]
)  # fmt: skip
labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=40)
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
    write_metadata(folder / "metadata/a.json", [sample, sample], lambda *_: None)
    rows = list(showui.read(folder, {}))
    assert [row.index for row in rows] == [0, 1]
    for row in rows:
        assert row.rejection is None and row.media == sample.media
        found = [(element.label, element.box, element.kind) for element in row.elements]
        assert found == [(label, box, kind) for label, box, kind in targets]
