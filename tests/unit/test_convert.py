"""From raw annotation files to samples, rejects and a manifest whose counts add up."""

from __future__ import annotations

import json
import re
import resource
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
from shardline import convert as conversion
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import read_json, sha256_file


@pytest.fixture
def screens(tmp_path):
    """Twelve good screens, three elements each."""
    folder = tmp_path / "screens"
    for number in range(12):
        save(picture(number), folder / f"images/{number}.png")
    write_showui(folder, [screen(f"{n}.png", ["Save", "Open", f"Tab {n}"]) for n in range(12)])
    return folder


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


def test_malformed_annotations_name_file_and_place(shared_data, results, tmp_path):
    for number, source in enumerate(sorted((shared_data / "malformed_json").glob("n_*.json"))):
        folder = tmp_path / str(number)
        (folder / "metadata").mkdir(parents=True)
        (folder / "metadata/train.json").write_bytes(source.read_bytes())
        try:
            manifest = lock_and_convert(results, "d", folder, "showui", "unit_xyxy")
        except DataError as error:
            assert re.search(r"metadata/train\.json is not valid JSON: .", str(error))
        else:  # several values in a row are rows, as in JSON lines
            assert source.name == "n_structure_object_with_trailing_garbage.json"
            assert manifest["rows"] == {"in": 2, "kept": 0, "rejected": 2}


def test_what_json_allows_never_ends_in_a_traceback(shared_data, results, tmp_path):
    for number, source in enumerate(sorted((shared_data / "malformed_json").glob("[yi]_*.json"))):
        folder = tmp_path / str(number)
        (folder / "metadata").mkdir(parents=True)
        (folder / "metadata/train.json").write_bytes(source.read_bytes())
        try:
            manifest = lock_and_convert(results, "d", folder, "showui", "unit_xyxy")
        except DataError:
            continue
        check_sums(manifest, rejects_of(results, "d"))


def test_no_rows_and_no_annotations(results, tmp_path):
    write_showui(tmp_path / "a", [])
    with pytest.raises(DataError, match="no rows"):
        lock_and_convert(results, "d", tmp_path / "a", "showui", "unit_xyxy")
    save(picture(1), tmp_path / "b/images/a.png")
    with pytest.raises(DataError, match=r"metadata/\*\.json.*format_options"):
        lock_and_convert(results, "d", tmp_path / "b", "showui", "unit_xyxy")
    with pytest.raises(ConfigError, match="outside"):
        options = {"annotations": "../*.json"}
        convert(results, "d", "showui", "unit_xyxy", format_options=options)
    with pytest.raises(ConfigError, match="no option glob"):
        convert(results, "d", "showui", "unit_xyxy", format_options={"glob": "*"})


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


TALK = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


def write_lines(folder, lines, name="rows.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / name).write_bytes(b"\n".join(lines))


def outcomes(results, name):
    """``kept`` or the reason of every row, by its number in the one file."""
    found = {reject["row"]: reject["reason"] for reject in rejects_of(results, name)}
    found |= {sample["id"].removeprefix(f"{name}:"): "kept" for sample in samples_of(results, name)}
    return {int(row.partition("#")[2]): outcome for row, outcome in found.items()}


@pytest.mark.parametrize("format_name", ["llava", "qwenvl"])
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_every_malformed_file_is_rejects_or_an_error_with_file_and_row(
    shared_data, results, tmp_path, format_name, ending
):
    good = {"conversations": TALK}
    for number, source in enumerate(sorted((shared_data / "malformed_json").iterdir())):
        name, folder = f"d{number}", tmp_path / str(number)
        lines = source.read_bytes().removesuffix(b"\n").split(b"\n")
        write_lines(folder, [good, *lines, good] if ending == ".jsonl" else lines, f"a{ending}")
        try:
            manifest = lock_and_convert(results, name, folder, format_name, None)
        except DataError as error:
            assert ending == ".json" and re.search(r"a\.json is not valid JSON: row \d", str(error))
            continue
        rejects = rejects_of(results, name)
        check_sums(manifest, rejects)
        assert manifest["rows"]["kept"] == (2 if ending == ".jsonl" else 0)
        assert all(reject["row"].startswith(f"a{ending}#") for reject in rejects)


def test_rows_that_are_no_text_too_long_or_too_deep(results, tmp_path):
    good = {"id": 10**25, "conversations": TALK}
    deep = b'{"conversations":' + b"[" * 150 + b"]" * 150 + b"}"
    lines = [
        good,
        json.dumps({"conversations": TALK, "id": "caf\u00e9"}, ensure_ascii=False).encode(
            "latin-1"
        ),
        b"",
        b'"' + b"a" * (20 << 20) + b'"',
        deep,
        deep.replace(b"[" * 60, b"").replace(b"]" * 60, b""),
        b'{"conversations": NaN}',
        {"conversations": [*TALK[:1], {"from": "gpt", "value": "\ud83d"}]},
        json.dumps(good).encode("utf-16-le"),
        good,
    ]
    write_lines(tmp_path / "raw", lines)
    manifest = lock_and_convert(results, "d", tmp_path / "raw", "llava", None)
    check_sums(manifest, rejects_of(results, "d"))
    assert outcomes(results, "d") == {
        0: "kept",
        1: "bad_encoding",
        3: "row_too_long",
        4: "malformed_json",
        5: "bad_turn",
        6: "bad_turn",
        7: "bad_text",
        8: "malformed_json",
        9: "kept",
    }
    assert [sample["meta"]["id"] for sample in samples_of(results, "d")] == [str(10**25)] * 2


def test_a_line_of_200_mb_takes_little_memory(results, tmp_path):
    good = json.dumps({"conversations": TALK}).encode() + b"\n"
    write_lines(tmp_path / "raw", [good])
    with open(tmp_path / "raw/rows.jsonl", "r+b") as file:
        file.seek(len(good) + (200 << 20))  # a hole, which reads as zeros
        file.write(b"\n" + good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = lock_and_convert(results, "d", tmp_path / "raw", "llava", None)
    assert manifest["reasons"] == {"row_too_long": 1} and manifest["rows"]["kept"] == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \r\n"),
        ("a.json", b"[]"),
        ("a.csv", b"query,response\n"),
    ],
)
def test_a_dataset_without_rows(results, tmp_path, name, data):
    write_lines(tmp_path / "raw", [data], name)
    with pytest.raises(DataError, match="d: the annotation files have no rows"):
        lock_and_convert(results, "d", tmp_path / "raw", "qwenvl", None)
    assert not (results / "converted/d/manifest.json").exists()


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
