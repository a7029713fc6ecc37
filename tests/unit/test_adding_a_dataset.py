"""What docs/adding-a-dataset.md shows works as it stands there."""

from __future__ import annotations

import json
import re

import yaml

from project_root import ROOT
from raw_datasets import command_line, lock
from shardline import registry
from shardline.config.schema import Dataset
from shardline.files import read_json, read_jsonl

PAGE = (ROOT / "docs/adding-a-dataset.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_entry_is_valid():
    for entry in yaml.safe_load(code("yaml"))["datasets"].values():
        Dataset.model_validate(entry)


def test_all_formats_and_no_others_are_listed():
    table = PAGE.partition("## Formats")[2].partition("Their `format_options`")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"format"} == set(
        registry.names("formats")
    )


def test_the_format_of_one_s_own_reads_real_data(tmp_path, shared_data):
    import convert_dataset

    plugin = tmp_path / "uied.py"
    plugin.write_text(code("python"))
    assert len(plugin.read_text().splitlines()) < 100
    results = tmp_path / "results"
    lock(results, "uied", shared_data / "uied_rico_elements")
    options = {
        "format": "uied",
        "frame": "unit_xyxy",
        "shard_rows": 100,
        "max_reject_share": 0,
        "max_pixels": 10**8,
        "plugins": [str(plugin)],
    }
    converted = results / "converted/uied"
    convert_dataset.main(
        command_line(
            dataset="uied",
            options=json.dumps(options),
            raw=results / "raw/uied",
            lock=results / "raw/uied.lock.json",
            manifest=converted / "manifest.json",
            rejects=converted / "rejects.jsonl",
        )
    )
    manifest = read_json(converted / "manifest.json")
    (sample,) = read_jsonl(converted / manifest["shards"][0]["name"])
    raw = read_json(shared_data / "uied_rico_elements/output/merge/497.json")
    assert manifest["elements"] == {"in": len(raw["compos"]), "kept": 47, "rejected": 0}
    assert sample["media"][0]["path"] == "input/497.jpg"
    left, top, _, bottom = sample["boxes"][0]["xyxy"]
    assert [left * 450, top * 800, bottom * 800] == [10, 34, 73]
