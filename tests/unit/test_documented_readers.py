"""Other libraries read token shards of every kind of media, by the code that the docs show."""

from __future__ import annotations

import io
import json
import re

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

import token_data
from project_root import ROOT
from raw_datasets import video
from shardline.files import read_json, sha256_bytes
from shardline.samples import Medium, Sample
from shardline.shards import read_shard
from shardline.tokenising import IMAGE_SUFFIX

PAGE = ROOT / "docs" / "tokens.md"
SHAPES = [(30, []), (40, [(56, 56)]), (9, [(84, 28), (28, 56)]), (70, []), (5, [(140, 112)])]
KINDS = {"none": 0, "png": 1, "2png": 2, "mp4": 1}
"""Media of a sample of each kind of shard."""


def clip(number: int) -> tuple[Sample, list[bytes]]:
    """A question about a video of two seconds."""
    data = video("mp4", "mpeg4")
    medium = Medium(
        kind="video", path=f"{number}.mp4", width=96, height=72, sha256=sha256_bytes(data)
    )
    question = [{"type": "video"}, {"type": "text", "text": "what?"}]
    sample = Sample(
        id=f"my_screens:clips.json#{number}",
        dataset="my_screens",
        media=[medium],
        messages=[
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": "blocks"}]},
        ],
        meta={"media": [{"frames": 12, "fps": 6.0, "duration": 2.0}]},
    )
    return sample, [data]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the code of the docs defines, run beside shards of a mixed dataset."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    variant = re.search(r'Path\("results/tokens/my_screens/([^/"]+)"\)', blocks[0])[1]
    results = tmp_path / "results"
    made = [*token_data.talks(SHAPES, "my_screens"), clip(0), clip(1)]
    empty = token_data.talks([(1, [(28, 28)] * 3)], "my_screens", len(SHAPES))
    del empty[0][0].messages[1]  # no answer: its shard stays empty
    filtered = token_data.write_filtered(results, [*made, *empty], 4)
    options = {**token_data.OPTIONS, "task": "chat"}
    model = token_data.tokenizer_folder(results)
    token_data.tokenise(filtered, model, variant, options)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = {}
    for block in blocks:
        exec(block, found)
    return found


def stored(names) -> dict[str, dict[str, bytes]]:
    """The members of every sample, as the project itself reads them."""
    return {
        json.loads(members["json"])["id"]: members
        for shard in read_json(names["folder"] / "manifest.json")["shards"]
        for _, members in read_shard(names["folder"] / shard["name"])
    }


def array(data: bytes) -> list:
    return np.load(io.BytesIO(data)).tolist()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_code_of_the_docs_reads_what_is_stored(names):
    expected = stored(names)
    assert len(expected) == len(SHAPES) + 2
    by_webdataset = {sample["id"]: sample for sample in names["samples"]()}
    assert by_webdataset.keys() == expected.keys()
    for name, sample in by_webdataset.items():
        members = expected[name]
        assert sample["input_ids"].tolist() == array(members["input_ids.npy"])
        assert sample["labels"].tolist() == array(members["labels.npy"])
        grids = json.loads(json.loads(members["json"])["grids"])
        assert sample["grids"] == grids
        for number, (picture, grid) in enumerate(zip(sample["pictures"], grids, strict=True)):
            assert np.array_equal(picture, pixels(members[f"{number}.{IMAGE_SUFFIX}"]))
            frames = 2 * grid[0] if "clips" in name else 1
            assert picture.shape == (frames * grid[1] * 14, grid[2] * 14, 3)

    assert names["tables"].keys() == KINDS.keys()
    assert sum(map(len, names["tables"].values())) == len(expected)
    for kind, table in names["tables"].items():
        pictures = [f"{number}.{IMAGE_SUFFIX}" for number in range(KINDS[kind])]
        for row in table:
            members = expected[row["json"]["id"]]
            assert row.keys() - {"__key__", "__url__"} == members.keys()
            assert row["json"] == json.loads(members["json"])
            for name in ("input_ids.npy", "labels.npy"):
                assert list(row[name]) == array(members[name])
            for name in pictures:
                assert np.array_equal(np.asarray(row[name].convert("RGB")), pixels(members[name]))


def test_others_get_the_stored_bytes(names):
    expected = stored(names)
    tars = [str(names["folder"] / shard["name"]) for shard in names["shards"]]
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        members = expected[json.loads(sample["json"])["id"]]
        assert {name: data for name, data in sample.items() if name[0] != "_"} == members
    for kind, table in names["tables"].items():
        for number in range(KINDS[kind]):
            name = f"{number}.{IMAGE_SUFFIX}"
            for row in table.cast_column(name, datasets.Image(decode=False)):
                assert row[name]["bytes"] == expected[row["json"]["id"]][name]
