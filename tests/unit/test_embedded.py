"""Images inside parquet files: named by a path, read by every stage, checked against the lock."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import decide_filters
import write_image_shard
from parquet_data import IMAGE, embedded, image_bytes, write_parquet
from raw_datasets import command_line, convert, lock, lock_and_convert, samples_of, tree_bytes
from shardline import locks
from shardline.embedded import Place, file_of, image_extension, path_of, place_of, read_medium
from shardline.errors import DataError
from shardline.files import read_json, sha256_bytes, sha256_file
from shardline.lineage import Lineage
from shardline.media import Auditor, audit_image
from shardline.parallel import Workers
from shardline.parquet_rows import read_parquet
from shardline.reporting.artefacts import Artefacts
from shardline.reporting.pictures import scene_of
from shardline.rows import Rejection
from shardline.samples import Sample
from shardline.shards import read_shard

LIMIT = 50_000_000


@given(
    column=st.text(min_size=1),
    row=st.integers(0, 10**9),
    item=st.none() | st.integers(0, 99),
    file=st.text(st.characters(categories=["L", "N"]), min_size=1),
)
def test_a_path_says_where_a_medium_lies(column, row, item, file):
    place = Place(f"data/{file}.parquet", row, column, item)
    path = path_of(place, b"\x89PNG...")
    assert place_of(path) == place and file_of(path) == place.file
    assert path.count("/") == (2 if item is None else 3) and path.endswith(".png")


@pytest.mark.parametrize(
    "path", ["a.png", "a.parquet", "a.parquet#1", "a.parquet#x/b.png", "a#1/b"]
)
def test_other_paths_are_files(path):
    assert place_of(path) is None and file_of(path) == path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_the_ending_is_what_the_bytes_are(kind):
    endings = {"JPEG": "jpg", "TIFF": "tif"}
    assert image_extension(image_bytes(1, kind)) == endings.get(kind, kind.lower())
    assert image_extension(b"<svg/>") == image_extension(b"") == "bin"


def test_any_value_is_read_in_any_order(tmp_path):
    data = [os.urandom(50) for _ in range(100)]
    lists = [[value, value[::-1]] for value in data]
    columns = {
        "image": [embedded(value, "x.png") for value in data],
        "plain": data,
        "a/b c.%": pa.array([[embedded(value) for value in row] for row in lists], pa.list_(IMAGE)),
    }
    write_parquet(tmp_path / "a.parquet", columns, rows=13)
    places = [(row, column) for row in range(100) for column in columns]
    random.Random(1).shuffle(places)
    records = dict(read_parquet(tmp_path, "a.parquet"))
    for row, column in places:
        paths = records[row][column]
        found = [
            read_medium(tmp_path / path) for path in ([paths] if type(paths) is str else paths)
        ]
        assert found == (lists[row] if column == "a/b c.%" else [data[row]])


def test_what_is_not_there_is_told(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"image": [embedded(None, "a.png")], "text": ["x"]})
    for path in ("0/image", "1/image", "0/other", "0/text", "0/image/0"):
        with pytest.raises(FileNotFoundError):
            read_medium(tmp_path / f"a.parquet#{path}.png")
    assert audit_image(str(tmp_path / "a.parquet#7/image.png"), LIMIT).reason == "missing_image"
    assert audit_image(str(tmp_path / "b.parquet#0/image.png"), LIMIT).reason == "missing_image"


def test_a_file_that_was_written_anew_is_opened_anew(tmp_path):
    for value in (b"first", b"second"):
        write_parquet(tmp_path / "a.parquet", {"image": [embedded(value)]})
        assert read_medium(tmp_path / "a.parquet#0/image.bin") == value


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(DataError, match=r"a\.parquet"):
        read_medium(tmp_path / "a.parquet#0/image.png")
    with pytest.raises(DataError, match=r"a\.parquet"):
        list(read_parquet(tmp_path, "a.parquet"))


def test_a_damaged_row_group_does_not_hide_the_others(tmp_path):
    data = [os.urandom(5000) for _ in range(9)]
    path = tmp_path / "a.parquet"
    write_parquet(path, {"image": data, "text": ["x"] * 9})
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    with open(path, "r+b") as file:
        file.seek(column.dictionary_page_offset)
        file.write(b"\xff" * 40)
    records = list(read_parquet(tmp_path, "a.parquet"))
    assert [index for index, _ in records] == list(range(9))
    damaged = [index for index, record in records if isinstance(record, Rejection)]
    assert damaged == [3, 4, 5] and records[3][1].reason == "damaged_row"


def test_columns_that_are_asked_for(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"a": [1], "b": [b"<p>"], "c": [None]})
    records = [
        dict(read_parquet(tmp_path, "a.parquet", *columns))[0]
        for columns in ((), (["a"], []), ([], ["c", "d"]), (["a"], ["a", "b"], ["b"]))
    ]
    assert records[0] == {"a": 1, "b": "a.parquet#0/b.bin", "c": None}
    assert records[1:] == [{"a": 1}, {"c": None}, {"a": 1, "b": b"<p>"}]
    with pytest.raises(DataError, match="column d; it has: a, b, c"):
        list(read_parquet(tmp_path, "a.parquet", ["d"]))


def test_a_text_that_is_no_text_is_its_own_rows_reject(tmp_path):
    texts = pa.array([b"good", b"\xff\xfe", None, b"good"]).view(pa.string())
    write_parquet(tmp_path / "a.parquet", {"text": texts})
    records = [record for _, record in read_parquet(tmp_path, "a.parquet")]
    assert [getattr(record, "reason", record) for record in records] == [
        {"text": "good"},
        "bad_encoding",
        {"text": None},
        {"text": "good"},
    ]


def test_the_file_around_a_medium_must_be_as_locked(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"image": [embedded(image_bytes(1))]})
    entry = locks.LockedFile(path.stat().st_size, sha256_bytes(path.read_bytes()))
    for change in (False, True):
        if change:
            write_parquet(path, {"image": [embedded(image_bytes(2))]})
        auditor = Auditor(tmp_path, {"a.parquet": entry}, LIMIT, Workers(1))
        if change:
            with pytest.raises(DataError, match="not what was locked"):
                auditor.audit(["a.parquet#0/image.png"])
        else:
            auditor.audit(["a.parquet#0/image.png"])
            audit, _ = auditor.check("a.parquet#0/image.png", 120, 80, in_pixels=True)
            assert audit.sha256 == sha256_bytes(image_bytes(1))


@pytest.fixture
def pages(tmp_path):
    """A dataset of two parquet files with 60 embedded pictures, of which the last repeats."""
    kinds = ["PNG", "JPEG"]
    for part in range(2):
        numbers = [part * 30 + row for row in range(30)]
        images = [image_bytes(number % 59, kinds[number % 59 % 2]) for number in numbers]
        columns = {
            "image": [embedded(data, f"{number}.png") for number, data in enumerate(images)],
            "text": [f"<p>{number % 59}</p>" for number in numbers],
        }
        write_parquet(tmp_path / f"pages/data/{part}.parquet", columns, rows=7)
    return tmp_path / "pages"


def test_embedded_images_through_audit_filters_and_shards(pages, tmp_path):
    results = tmp_path / "results"
    manifest = lock_and_convert(results, "d", pages, "dom_html", None, max_reject_share=0)
    assert manifest["rows"] == {"in": 60, "kept": 60, "rejected": 0}
    decisions = results / "filtered/d/v/decisions.json"
    options = {"filters": [{"name": "dedup"}], "shard_bytes": 10**9}
    decide_filters.main(
        command_line(
            dataset="d",
            variant="v",
            options=json.dumps(options),
            converted=results / "converted",
            raw=results / "raw",
            scores=results / "scores",
            decisions=decisions,
            threads=2,
        )
    )
    summary = read_json(decisions)
    assert summary["samples"] == {"in": 60, "kept": 59, "rejected": 1}
    found = {}
    for entry in summary["shards"]:
        series = entry["shard"].partition("-")[2]
        assert series in ("png", "jpg")
        tar = results / f"filtered/d/v/shard-{entry['shard']}.tar"
        write_image_shard.main(
            command_line(
                dataset="d",
                shard=entry["shard"],
                decisions=decisions,
                converted=results / "converted/d",
                raw=results / "raw/d",
                output=tar,
            )
        )
        for _, members in read_shard(tar):
            sample = json.loads(json.loads(members["json"])["sample"])
            found[sample["messages"][1]["content"][0]["text"]] = members[f"0.{series}"]
    assert found == {
        f"<p>{seed}</p>": image_bytes(seed, ["PNG", "JPEG"][seed % 2]) for seed in range(59)
    }


def test_embedded_images_in_lineage_and_report(pages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    lock_and_convert(results, "d", pages, "dom_html", None)
    sample = Sample.from_json(samples_of(results, "d")[40])
    (row, image) = Lineage(None, results).trace(sample)["files"]
    assert row == image and image["path"] == "results/raw/d/data/1.parquet"
    assert image["sha256"] == sha256_file(pages / "data/1.parquet")
    scene = scene_of(sample, Artefacts(results))
    assert (scene.width, scene.height, scene.problem) == (120, 80, "")
    (pages / "data/1.parquet").write_bytes(b"no parquet")
    assert "cannot be read" in scene_of(sample, Artefacts(results)).problem


def test_two_workers_give_the_same_bytes_as_one(pages, tmp_path):
    trees = []
    for threads in (1, 2):
        results = tmp_path / str(threads)
        lock(results, "d", pages)
        convert(results, "d", "dom_html", None, threads=threads, shard_rows=40)
        trees.append(tree_bytes(results / "converted"))
    assert trees[0] == trees[1]
    assert len(samples_of(tmp_path / "1", "d")) == 60
