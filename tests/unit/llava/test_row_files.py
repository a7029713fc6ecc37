"""Files of rows: pieces of arrays, damaged and endless lines, memory, embedded images."""

from __future__ import annotations

import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_rows import EXAMPLES, JSON, MIB, read, reasons, talk, write_lines
from raw_datasets import (
    lock_and_convert,
    picture,
    rows_in,
    samples_of,
    save,
)
from shardline import row_files
from shardline.errors import DataError
from shardline.formats import llava


def test_annotation_files_of_all_folders_are_read_and_small_ones_share_a_shard(raw, results):
    for number in range(4):
        (raw / "deep" / "er").mkdir(parents=True, exist_ok=True)
        write_lines(raw / f"{number}.jsonl", [talk("<image>?", "1", image="a/1.png")])
        write_lines(raw / f"deep/er/{number}.jsonl", [talk("<image>?", "2", image="a/1.png")])
    manifest = lock_and_convert(results, "d", raw, "llava", None)
    assert manifest["rows"] == {"in": 8, "kept": 8, "rejected": 0}
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4]


def test_a_json_array_is_the_same_rows_as_json_lines(raw):
    rows = [talk("<image>?", f"{n}", image="a/1.png") for n in range(5)]
    write_lines(raw / "b.jsonl", rows)
    (raw / "c.json").write_text(json.dumps(rows, indent=1))
    (raw / "d.json").write_text("\n".join(json.dumps(row) for row in rows))
    (raw / "e.json").write_text(json.dumps(rows[0], indent=1))
    found = [(row.file, row.index, row.messages) for row in read(raw)]
    messages = [row[2] for row in found[:5]]
    assert found == [
        *(("b.jsonl", n, messages[n]) for n in range(5)),
        *(("c.json", n, messages[n]) for n in range(5)),
        *(("d.json", n, messages[n]) for n in range(5)),
        ("e.json", 0, messages[0]),
    ]


@EXAMPLES
@given(st.lists(JSON, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 9))
def test_arrays_are_read_in_pieces(tmp_path_factory, values, indent, is_ascii, chunk):
    path = tmp_path_factory.mktemp("raw") / "a.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=is_ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "CHUNK", chunk)
        found = list(row_files.read_rows(path.parent, path.name))
    assert found == list(enumerate(values))


def test_malformed_lines_are_rejected_and_the_others_kept(shared_data, tmp_path):
    good = talk("a", "b")
    for source in sorted((shared_data / "malformed_json").iterdir()):
        data = source.read_bytes().removesuffix(b"\n")
        lines = [json.dumps(good).encode(), *data.split(b"\n"), json.dumps(good).encode()]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
        first, *between, last = read(tmp_path, annotations="rows.jsonl")
        assert first.rejection is None and last.rejection is None, source.name
        assert last.index == len(lines) - 1
        assert all(row.rejection for row in between), source.name
        if source.name.startswith("n_"):
            found = {row.rejection.reason for row in between}
            assert found & {"malformed_json", "bad_encoding"}, source.name


def test_malformed_files_name_row_and_line(shared_data, tmp_path):
    for source in sorted((shared_data / "malformed_json").iterdir()):
        (tmp_path / "rows.json").write_bytes(source.read_bytes())
        try:
            rows = read(tmp_path)
        except DataError as error:
            assert "rows.json is not valid JSON: row " in str(error), source.name
            assert not source.name.startswith("y_")
        else:
            assert all(row.rejection for row in rows), source.name
    (tmp_path / "rows.json").write_text(json.dumps([talk("a", "b")] * 3, indent=1)[:-30])
    rows = rows_in(llava, tmp_path)
    assert [next(rows).index, next(rows).index] == [0, 1]
    with pytest.raises(DataError, match=r"row 2, line 28"):
        next(rows)


def test_lines_that_are_no_text(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + json.dumps(talk("a", "b")).encode(),
        b"",
        json.dumps(talk("a", "caf\u00e9"), ensure_ascii=False).encode("latin-1"),
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        json.dumps(talk("a", "\U0001f600")).encode() + b"\r",
        json.dumps(talk("a", "b")).encode("utf-16"),
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    rows = read(tmp_path)
    found = {row.index: row.rejection.reason if row.rejection else "kept" for row in rows}
    assert [found.get(number) for number in range(6)] == [
        "kept",
        None,
        "bad_encoding",
        "malformed_json",
        "malformed_json",
        "kept",
    ]
    assert "line 3, byte" in rows[1].rejection.detail
    assert set(found.values()) <= {"kept", "bad_encoding", "malformed_json"}


def test_a_line_of_200_mb_is_skipped_in_little_memory(tmp_path):
    good = json.dumps(talk("a", "b")).encode() + b"\n"
    with open(tmp_path / "rows.jsonl", "wb") as file:
        file.write(good)
        file.seek(200 * MIB)  # a hole, which reads as zeros
        file.write(b"\n" + good)
    tracemalloc.start()
    try:
        assert reasons(read(tmp_path)) == {"kept": 2, "row_too_long": 1}
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_memory_does_not_grow_with_the_rows(tmp_path, name):
    row = json.dumps(talk("a" * 1000, "b" * 1000))
    separator = "\n" if name.endswith("l") else ","
    body = separator.join([row] * 5_000)
    (tmp_path / name).write_text(body if separator == "\n" else f"[{body}]")
    tracemalloc.start()
    try:
        assert sum(row.rejection is None for row in rows_in(llava, tmp_path)) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB  # of 10 in the file
    finally:
        tracemalloc.stop()


def test_parquet_rows_with_embedded_images(tmp_path, results):
    folder = tmp_path / "raw"
    save(picture(3), folder / "a.png")
    data = (folder / "a.png").read_bytes()
    images = [{"bytes": data, "path": "x.png"}, None, {"bytes": None, "path": "a.png"}]
    turns = [talk("<image>?", "A.")["conversations"], talk("a", "b")["conversations"]]
    table = pa.table(
        {"id": ["1", "2", "3"], "image": images, "conversations": [turns[0], turns[1], turns[0]]}
    )
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data/train-0.parquet")
    manifest = lock_and_convert(results, "d", folder, "llava", None, max_reject_share=0)
    assert manifest["rows"]["kept"] == 3
    embedded, nothing, named = samples_of(results, "d")
    assert embedded["media"][0]["path"] == "data/train-0.parquet#0/image.png"
    assert embedded["media"][0]["sha256"] == named["media"][0]["sha256"]
    assert nothing["media"] == [] and named["media"][0]["path"] == "a.png"
