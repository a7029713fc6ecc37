"""Image shards read by others: every sample of a mixed dataset, to the byte, and size limits."""

from __future__ import annotations

import json
from collections import Counter

import datasets
import pytest
import webdataset

from filtered import run_filters, write_shards
from raw_datasets import lock_and_convert, picture, save
from shardline.files import read_json, read_jsonl

FORMAT = """
from shardline.rows import Element, Row
from shardline.samples import Medium

KINDS = (["{0}.jpg"], ["{0}.png"], ["{0}.jpg", "{0}.jpg"], ["{0}.png", "{0}.jpg"], [])

class Mixed:
    DEFAULTS = {}

    @staticmethod
    def read(raw, options):
        for index in range(20):
            row = Row(file="rows.txt", index=index)
            row.media = [Medium(kind="image", path=path.format(index)) for path in KINDS[index % 5]]
            if index % 10 < 2:
                row.elements = [Element(label="it", box=[1, 2, 3, 4])]
            else:
                content = [{"type": "image"}] * len(row.media) + [{"type": "text", "text": "?"}]
                answer = [{"type": "text", "text": "\\u00e9" * index}]
                row.messages = [
                    {"role": "user", "content": content},
                    {"role": "assistant", "content": answer},
                ]
            yield row

shardline_formats = {"mixed": Mixed}
"""


@pytest.fixture
def mixed(tmp_path):
    """Samples with a JPEG, a PNG, two JPEGs, both, or text alone; some with boxes."""
    folder, plugin = tmp_path / "data", tmp_path / "mixed.py"
    plugin.write_text(FORMAT)
    for number in range(20):
        for ending in ("jpg", "png"):
            save(picture(number, (40 + number, 30)), folder / f"{number}.{ending}")
    (folder / "rows.txt").write_text("")
    results = tmp_path / "results"
    manifest = lock_and_convert(
        results, "d", folder, "mixed", "pixel_xyxy", plugins=[str(plugin)], max_reject_share=0
    )
    assert manifest["rows"]["kept"] == 20
    return results, folder


def stored(results) -> dict[str, dict]:
    """The converted samples by id."""
    folder = results / "converted/d"
    return {
        sample["id"]: sample
        for shard in read_json(folder / "manifest.json")["shards"]
        for sample in read_jsonl(folder / shard["name"])
    }


def media_of(sample, folder) -> list[bytes]:
    return [(folder / medium["path"]).read_bytes() for medium in sample["media"]]


def test_common_readers_return_every_sample_to_the_byte(mixed, tmp_path):
    results, folder = mixed
    run_filters(results, "d", [])
    manifest = write_shards(results, "d")
    expected = stored(results)
    by_webdataset, by_datasets = {}, {}
    for shard in manifest["shards"]:
        path = str(results / "filtered/d/v" / shard["name"])
        for row in webdataset.WebDataset(path, shardshuffle=False):
            content = json.loads(row["json"])
            media = [row[name] for name in sorted(row) if name[0].isdigit()]
            by_webdataset[content["id"]] = (json.loads(content["sample"]), media)
        rows = datasets.load_dataset(
            "webdataset", data_files=[path], split="train", cache_dir=str(tmp_path / "cache")
        )
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        for row in rows:
            media = [row[name]["bytes"] for name in sorted(row) if name[0].isdigit()]
            by_datasets[row["json"]["id"]] = (json.loads(row["json"]["sample"]), media)
    wanted = {name: (sample, media_of(sample, folder)) for name, sample in expected.items()}
    assert by_webdataset == wanted
    assert by_datasets == wanted
    names = Counter(shard["name"].partition("-")[2] for shard in manifest["shards"])
    assert set(names) == {f"00000-{kind}.tar" for kind in ("jpg", "png", "2jpg", "png-jpg", "none")}


def test_a_shard_closes_at_its_size(mixed):
    results, folder = mixed
    sizes = {name: sum(map(len, media_of(s, folder))) for name, s in stored(results).items()}
    limit = 2 * max(sizes.values())
    summary = run_filters(results, "d", [], shard_bytes=limit)
    manifest = write_shards(results, "d")
    assert len(manifest["shards"]) > 5
    found: Counter[str] = Counter()
    for entry in summary["shards"]:
        lines = list(read_jsonl(results / f"filtered/d/v/decisions-{entry['shard']}.jsonl"))
        assert sum(sizes[line["id"]] for line in lines) <= limit
        found.update(line["id"] for line in lines)
    assert found == Counter(list(sizes))
    again = run_filters(results, "d", [], shard_bytes=10**9)
    assert {entry["shard"] for entry in again["shards"]} == {
        f"00000-{kind}" for kind in ("jpg", "png", "2jpg", "png-jpg", "none")
    }


def test_a_sample_over_the_limit_has_a_shard_of_its_own(mixed):
    results, _ = mixed
    summary = run_filters(results, "d", [], shard_bytes=1)
    assert {entry["kept"] for entry in summary["shards"] if "none" not in entry["shard"]} == {1}
