"""Files that are none, or nearly so: rejects or an error that names file and row."""

from __future__ import annotations

import json
import re
import resource

import pytest

from raw_datasets import (
    check_sums,
    convert,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
    write_showui,
)
from raw_lines import TALK, outcomes, write_lines
from shardline.errors import ConfigError, DataError


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
