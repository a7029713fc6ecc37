"""Conversion: shards of samples, the same bytes whatever the processes, plug-ins, kills."""

from __future__ import annotations

import json
from pathlib import Path

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
    tree_bytes,
    write_showui,
)
from raw_lines import TALK, outcomes, write_lines
from shardline import convert as conversion
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, sha256_file


@pytest.fixture
def screens(tmp_path):
    """Twelve good screens, three elements each."""
    folder = tmp_path / "screens"
    for number in range(12):
        save(picture(number), folder / f"images/{number}.png")
    write_showui(folder, [screen(f"{n}.png", ["Save", "Open", f"Tab {n}"]) for n in range(12)])
    return folder


def test_shards_are_blocks_of_source_rows_of_one_file(screens, results):
    write_showui(screens, [screen("0.png", ["a"]), screen("gone.png", ["b"])], "a_first.json")
    manifest = lock_and_convert(results, "d", screens, "showui", "unit_xyxy", shard_rows=5)
    assert [(shard["rows"], shard["samples"]) for shard in manifest["shards"]] == [
        (2, 1),
        (5, 5),
        (5, 5),
        (2, 2),
    ]
    check_sums(manifest, rejects_of(results, "d"))
    assert len({sample["id"] for sample in samples_of(results, "d")}) == 13
    manifest = convert(results, "d", "showui", "unit_xyxy", shard_rows=50)
    names = {path.name for path in (results / "converted/d").glob("samples-*")}
    assert names == {shard["name"] for shard in manifest["shards"]}


def test_a_changed_row_changes_its_own_shard_only(screens, results):
    before = lock_and_convert(results, "d", screens, "showui", "unit_xyxy", shard_rows=4)
    records = read_json(screens / "metadata/train.json")
    records[5]["element"][0]["instruction"] = "Close"
    records.append(screen("0.png", ["new"]))
    write_showui(screens, records)
    after = lock_and_convert(results, "d", screens, "showui", "unit_xyxy", shard_rows=4)
    same = [a == b for a, b in zip(before["shards"], after["shards"], strict=False)]
    assert same == [True, False, True] and len(after["shards"]) == 4


def test_same_bytes_on_a_rerun_and_on_two_processes(screens, results, tmp_path):
    (screens / "images/3.png").write_bytes(b"broken")
    raw_before = {path: sha256_file(path) for path in screens.rglob("*") if path.is_file()}
    lock_and_convert(results, "d", screens, "showui", "unit_xyxy", shard_rows=5)
    first = tree_bytes(results / "converted")
    convert(results, "d", "showui", "unit_xyxy", shard_rows=5)
    assert tree_bytes(results / "converted") == first
    other = tmp_path / "elsewhere"
    lock_and_convert(other, "d", screens, "showui", "unit_xyxy", shard_rows=5, threads=2)
    assert tree_bytes(other / "converted") == first
    assert raw_before == {path: sha256_file(path) for path in screens.rglob("*") if path.is_file()}


def test_a_stop_in_the_middle_leaves_no_manifest_and_nothing_half_written(
    screens, results, monkeypatch
):
    lock_and_convert(results, "d", screens, "showui", "unit_xyxy", shard_rows=4)
    expected = tree_bytes(results / "converted")
    real, calls = Path.read_bytes, []

    def dying(path):
        if path.name == "6.png":
            calls.append(path)
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        convert(results, "d", "showui", "unit_xyxy", shard_rows=4)
    monkeypatch.undo()
    assert calls and not (results / "converted/d/manifest.json").exists()
    assert not list((results / "converted/d").glob(".*"))
    convert(results, "d", "showui", "unit_xyxy", shard_rows=4)
    assert tree_bytes(results / "converted") == expected


def test_data_changed_after_locking_is_refused(screens, results):
    lock(results, "d", screens)
    write_showui(screens, [screen("0.png", ["other"])])
    with pytest.raises(DataError, match=r"train\.json is not what was locked"):
        convert(results, "d", "showui", "unit_xyxy")


def test_a_format_without_boxes(screens, results, tmp_path):
    plugin = tmp_path / "my_format.py"
    plugin.write_text(
        "from shardline.rows import Row\n"
        "from shardline.samples import Medium\n"
        "class Captions:\n"
        "    DEFAULTS = {}\n"
        "    FRAMES = ()\n"
        "    @staticmethod\n"
        "    def read(raw, options):\n"
        "        parts = [{'type': 'text', 'text': 'a screen'}]\n"
        "        yield Row(file='metadata/train.json', index=0,\n"
        "                  media=[Medium(kind='image', path='images/0.png')],\n"
        "                  messages=[{'role': 'assistant', 'content': parts}])\n"
        "shardline_formats = {'captions': Captions}\n"
    )
    plugins = [str(plugin)]
    manifest = lock_and_convert(results, "d", screens, "captions", None, plugins=plugins)
    assert manifest["rows"]["kept"] == 1 and manifest["elements"]["in"] == 0
    assert samples_of(results, "d")[0]["messages"][0]["content"][0]["text"] == "a screen"
    with pytest.raises(ConfigError, match="declare none"):
        convert(results, "d", "captions", "pixel_xyxy", plugins=plugins)


def test_a_plugin_adds_a_format(screens, results, tmp_path):
    plugin = tmp_path / "my_format.py"
    plugin.write_text(
        "from shardline.rows import Element, Row\n"
        "from shardline.samples import Medium\n"
        "class Lines:\n"
        "    DEFAULTS = {}\n"
        "    @staticmethod\n"
        "    def read(raw, options):\n"
        "        for index, path in enumerate(sorted((raw / 'images').iterdir())):\n"
        "            yield Row(file='metadata/train.json', index=index,\n"
        "                      media=[Medium(kind='image', path=f'images/{path.name}')],\n"
        "                      elements=[Element(label=path.stem, box=[0, 0, 9, 9])])\n"
        "shardline_formats = {'lines': Lines}\n"
    )
    manifest = lock_and_convert(
        results, "d", screens, "lines", "pixel_xyxy", plugins=[str(plugin)], max_reject_share=0
    )
    assert manifest["rows"]["kept"] == 12


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_chunks_and_packs_are_the_same_on_any_number_of_processes(
    screens, results, tmp_path, monkeypatch, ending
):
    monkeypatch.setattr(conversion, "CHUNK_ROWS", 7)
    monkeypatch.setattr(conversion, "CHUNK_BYTES", 2000)
    rows = [
        {
            "id": n,
            "image": f"{n % 14}.png",
            "conversations": [{**TALK[0], "value": "a" * n}, TALK[1]],
        }
        for n in range(90)
    ]
    rows[40:42] = [[rows[40], rows[41]], {"image": [{"a": [[]]}], "conversations": TALK}]
    rows[60] = {"conversations": TALK}
    if ending == "json":
        (screens / "images/rows.json").write_text(json.dumps(rows))
    else:
        write_lines(screens / "images", [*rows[:50], b'{"id": 1', *rows[50:]])
    options = {"shard_rows": 25, "format_options": {"annotations": f"images/rows.{ending}"}}
    trees = []
    for threads in (1, 2, 3):
        place = tmp_path / str(threads)
        manifest = lock_and_convert(place, "d", screens, "qwenvl", None, threads=threads, **options)
        trees.append(tree_bytes(place / "converted"))
    assert trees[0] == trees[1] == trees[2]
    check_sums(manifest, rejects_of(place, "d"))
    assert [shard["rows"] for shard in manifest["shards"]] == [
        25,
        26,
        25,
        len(rows) - 75 + (ending == "jsonl"),
    ]
    assert set(manifest["reasons"]) == {"missing_image", "bad_media"} | (
        {"malformed_json"} if ending == "jsonl" else set()
    )


def test_a_killed_worker_is_an_error_that_names_the_row(screens, results, tmp_path):
    plugin = tmp_path / "my_format.py"
    plugin.write_text(
        "import os, signal\n"
        "from shardline.rows import RawRow, Row\n"
        "class Deadly:\n"
        "    DEFAULTS = {}\n"
        "    FRAMES = ()\n"
        "    @staticmethod\n"
        "    def scan(raw, options):\n"
        "        for index in range(10_000):\n"
        "            yield RawRow('metadata/train.json', index, None)\n"
        "    @staticmethod\n"
        "    def parser(raw, options):\n"
        "        def rows(row):\n"
        "            if row.index == 5_000:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield Row(file=row.file, index=row.index)\n"
        "        return rows\n"
        "shardline_formats = {'deadly': Deadly}\n"
    )
    with pytest.raises(DataError, match=r"worker process was killed.* metadata/train\.json#\d+"):
        lock_and_convert(results, "d", screens, "deadly", None, threads=2, plugins=[str(plugin)])


def test_values_that_cannot_be_written_are_rejects(screens, results, tmp_path):
    plugin = tmp_path / "my_format.py"
    plugin.write_text(
        "from shardline.rows import Row\n"
        "deep = []\n"
        "for _ in range(150):\n"
        "    deep = [deep]\n"
        "class Odd:\n"
        "    DEFAULTS = {}\n"
        "    FRAMES = ()\n"
        "    @staticmethod\n"
        "    def read(raw, options):\n"
        "        values = 1, float('nan'), '\\ud800', None, 2**70, {1}, deep\n"
        "        for index, value in enumerate(values):\n"
        "            yield Row(file='metadata/train.json', index=index, meta={'value': value})\n"
        "shardline_formats = {'odd': Odd}\n"
    )
    lock_and_convert(results, "d", screens, "odd", None, plugins=[str(plugin)])
    found = outcomes(results, "d")
    assert [found[number] for number in range(7)] == [
        "kept", "bad_value", "bad_value", "kept", "kept", "bad_value", "bad_row",
    ]  # fmt: skip
    values = [sample["meta"]["value"] for sample in samples_of(results, "d")]
    assert values == [1, None, 2**70]
