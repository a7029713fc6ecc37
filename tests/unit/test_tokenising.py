"""Token shards: deterministic, readable by others, and no sample lost or poisonous."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import token_data
import tokenize_shard
import write_token_manifest
from shardline.errors import DataError, SampleError
from shardline.families import qwen2_vl as family
from shardline.files import read_json, read_jsonl, sha256_file
from shardline.pictures import Pictures
from shardline.pixels import decode_pixels
from shardline.placeholders import placeholder_ids
from shardline.samples import Box
from shardline.shards import read_shard
from shardline.tasks import grounding
from shardline.token_index import read_facts, read_index
from shardline.tokenising import tokenise_sample


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return token_data.tokenizer_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenised(model, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    samples = token_data.screens(10)
    return samples, token_data.tokenise(token_data.write_filtered(results, samples), model)


def test_manifest_counts_add_up_and_name_every_file(tokenised):
    _, path = tokenised
    manifest = read_json(path)
    assert manifest["samples"] == {"in": 10, "kept": 10, "rejected": 0}
    assert [shard["samples"] for shard in manifest["shards"]] == [7, 3]
    assert manifest["family"] == "qwen2_vl" and manifest["variant"] == "tiny"
    for shard in manifest["shards"]:
        assert sha256_file(path.parent / shard["name"]) == shard["sha256"]
        assert sha256_file(path.parent / shard["index"]) == shard["index_sha256"]
    for key, column in (("tokens", "length"), ("patches", "patches")):
        tables = [read_index(path.parent / shard["index"]) for shard in manifest["shards"]]
        assert manifest[key] == sum(sum(table[column].to_pylist()) for table in tables)
    assert (path.parent / "rejects.jsonl").read_bytes() == b""


def test_each_sample_is_what_the_family_makes_of_it(tokenised, model):
    samples, path = tokenised
    tokenizer = family.load_tokenizer(model)
    by_id = {sample.id: (sample, data) for sample, data in samples}
    seen = []
    for shard in sorted(path.parent.glob("*.tar")):
        rows = read_index(shard.with_suffix(".index.parquet")).to_pylist()
        raw = shard.read_bytes()
        for (key, members), row in zip(read_shard(shard), rows, strict=True):
            sample, data = by_id[row["id"]]
            seen.append(row["id"])
            assert key == row["key"]
            ids, labels = (
                np.load(io.BytesIO(members[f"{name}.npy"])) for name in ("input_ids", "labels")
            )
            grids = json.loads(json.loads(members["json"])["grids"])
            grid = family.image_grid(*Image.open(io.BytesIO(data)).size, 4, 64)
            assert grids == [list(grid)] == row["grids"]
            picture = Image.open(io.BytesIO(members["0.png"]))
            assert picture.tobytes() == family.resize_image(decode_pixels(data), grid).tobytes()
            expanded, _ = family.expand(ids, labels, [grid], placeholder_ids(tokenizer, family))
            assert row["length"] == len(expanded) and row["text_length"] == len(ids)
            assert row["supervised"] == (labels != -100).sum() > 0
            answers = tokenizer.decode(labels[labels != -100].tolist(), skip_special_tokens=False)
            assert answers.count("<|im_end|>") == len(sample.boxes)
            for member in row["members"]:
                suffix = member["name"].partition(".")[2]
                part = raw[member["offset"] : member["offset"] + member["size"]]
                assert part == members[suffix]
    assert sorted(seen) == sorted(by_id)


def test_a_second_run_gives_the_same_bytes(tokenised, model, tmp_path):
    samples, path = tokenised
    again = token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)
    assert token_data.files_under(again.parent) == token_data.files_under(path.parent)


def test_webdataset_and_datasets_read_the_shards(tokenised, tmp_path):
    import datasets
    import webdataset

    samples, path = tokenised
    tars = [str(tar) for tar in sorted(path.parent.glob("*.tar"))]
    with_webdataset = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    with_datasets = datasets.load_dataset(
        "webdataset", data_files=tars, split="train", cache_dir=str(tmp_path)
    )
    assert len(with_webdataset) == len(with_datasets) == len(samples)
    for ours, theirs in zip(with_webdataset, with_datasets, strict=True):
        assert ours["json"]["id"] == theirs["json"]["id"]
        assert ours["input_ids.npy"].tolist() == list(theirs["input_ids.npy"])
        assert np.array_equal(np.asarray(theirs["0.png"]), np.asarray(ours["0.png"]))


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("click <|image_pad|> here", "special_token"),
        ("<|im_end|>\n<|im_start|>assistant\n[0.1, 0.1]", "special_token"),
        (None, "no_supervised"),
    ],
)
def test_a_poisoned_sample_is_rejected_with_its_reason(model, tmp_path, label, reason):
    samples = token_data.screens(3)
    poisoned = samples[1][0]
    poisoned.boxes = [] if label is None else [Box(label=label, xyxy=[0, 0, 9, 9])]
    path = token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)
    manifest = read_json(path)
    assert manifest["samples"] == {"in": 3, "kept": 2, "rejected": 1}
    assert manifest["reasons"] == {reason: 1}
    [reject] = read_jsonl(path.parent / "rejects.jsonl")
    assert reject["row"] == "annotations.json#1" and reject["stage"] == "tokenize"
    assert reject["reason"] == reason and reject["dataset"] == "screens" and reject["detail"]


def test_a_text_that_asks_for_another_number_of_images_is_rejected(model):
    sample, data = token_data.screens(1)[0]
    image = decode_pixels(data)
    for images in ([], [Pictures([image])] * 2):
        with pytest.raises(SampleError, match=f"1 in the text for {len(images)} media") as caught:
            tokenise_sample(
                sample,
                images,
                family=family,
                task=grounding,
                tokenizer=family.load_tokenizer(model),
                options=token_data.OPTIONS["tokens"],
            )
        assert caught.value.reason == "placeholders"


def longer(ids, labels):
    return ids, np.append(labels, -100)


def shifted(ids, labels):
    return ids, np.where(labels == -100, labels, np.roll(ids, -1))


def unmasked(ids, labels):
    return ids, ids.copy()


def unknown(ids, labels):
    return np.where(ids == ids[0], 10**6, ids), labels


def negative(ids, labels):
    return np.where(ids == ids[0], -1, ids), labels


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (longer, "label_count"),
        (shifted, "label_differs"),
        (unmasked, "placeholder_supervised"),
        (unknown, "vocabulary"),
        (negative, "vocabulary"),
    ],
)
def test_arrays_that_would_crash_or_poison_a_step_are_rejected(model, poison, reason):
    """A family of a user's own may make such arrays."""
    sample, data = token_data.screens(1)[0]

    def encode(*words, **named):
        return poison(*family.encode(*words, **named))

    poisoned = {**vars(family), "encode": encode}
    with pytest.raises(SampleError) as caught:
        tokenise_sample(
            sample,
            [Pictures([decode_pixels(data)])],
            family=SimpleNamespace(**poisoned),
            task=grounding,
            tokenizer=family.load_tokenizer(model),
            options=token_data.OPTIONS["tokens"],
        )
    assert caught.value.reason == reason and str(caught.value)


@pytest.mark.parametrize("grid", [(1, 4, 5), (1, 0, 4), (0, 4, 4)])
def test_a_grid_of_no_whole_tokens_is_rejected(model, grid):
    sample, data = token_data.screens(1)[0]
    odd = SimpleNamespace(**{**vars(family), "media_grid": lambda *size: grid})
    with pytest.raises(SampleError, match="no whole tokens") as caught:
        tokenise_sample(
            sample,
            [Pictures([decode_pixels(data)])],
            family=odd,
            task=grounding,
            tokenizer=family.load_tokenizer(model),
            options=token_data.OPTIONS["tokens"],
        )
    assert caught.value.reason == "grid"


def test_the_index_says_what_a_plan_needs(model, tmp_path):
    samples = token_data.screens(4)
    samples[1][0].group, samples[2][0].meta["pack"] = "episode 1", "rows.json#3"
    path = token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)
    shard = next(path.parent.glob("*.tar"))
    rows = {row["id"]: row for row in read_index(shard.with_suffix(".index.parquet")).to_pylist()}
    placeholders = placeholder_ids(family.load_tokenizer(model), family)
    for (_, members), row in zip(read_shard(shard), rows.values(), strict=True):
        ids, labels = (
            np.load(io.BytesIO(members[f"{name}.npy"])) for name in ("input_ids", "labels")
        )
        ids, labels = family.expand(ids, labels, row["grids"], placeholders)
        learned = np.zeros(len(ids), dtype=bool)
        for start, end in zip(row["answers"][::2], row["answers"][1::2], strict=True):
            learned[start:end] = True
        assert (learned == (labels != -100)).all()
        assert row["media_end"] == np.flatnonzero(ids == placeholders[0])[-1] + 1
    first, grouped, packed, _ = (rows[sample.id] for sample, _ in samples)
    assert first["group"] == samples[0][0].media[0].sha256 and first["pack"] == ""
    assert grouped["group"] == "episode 1" and packed["pack"] == "rows.json#3"


def test_an_extreme_aspect_is_rejected(model, tmp_path):
    image = Image.new("RGB", (2010, 10))
    made = token_data.sample_of(image, [Box(label="Save", xyxy=[0, 0, 9, 9])], "screens:a#0")
    path = token_data.tokenise(token_data.write_filtered(tmp_path, [made]), model)
    assert read_json(path)["reasons"] == {"aspect": 1}


def test_an_image_of_another_size_than_its_sample_says_fails_the_stage(model, tmp_path):
    samples = token_data.screens(2)
    samples[1][0].media[0].width += 1
    with pytest.raises(DataError, match=r"annotations.json#1.* its sample says"):
        token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)


def test_a_damaged_image_fails_the_stage_and_leaves_no_shard(model, tmp_path):
    samples = token_data.screens(2)
    samples[1] = (samples[1][0], samples[1][1][:200])
    with pytest.raises(DataError, match=r"annotations\.json#1"):
        token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)
    assert not list((tmp_path / "tokens").rglob("*.tar"))


def test_an_empty_shard_is_written_and_counted(model, tmp_path):
    samples = token_data.screens(8)
    for sample, _ in samples[7:]:
        sample.boxes = []
    path = token_data.tokenise(token_data.write_filtered(tmp_path, samples), model)
    assert [shard["samples"] for shard in read_json(path)["shards"]] == [7, 0]


def test_the_manifest_refuses_shards_that_do_not_add_up(model, tmp_path):
    filtered = token_data.write_filtered(tmp_path, token_data.screens(3))
    folder = token_data.tokenise(filtered, model).parent
    arguments = token_data.command_line(
        {
            "dataset": "screens",
            "variant": "tiny",
            "options": "{}",
            "filtered": filtered,
            "folder": folder,
            "manifest": folder / "manifest.json",
            "rejects": folder / "rejects.jsonl",
        }
    )
    (folder / "shard-00000-png.rejects.jsonl").write_text('{"reason": "made_up"}\n')
    with pytest.raises(DataError, match="3 samples went in, 3 were kept and 1 rejected"):
        write_token_manifest.main(arguments)
    (folder / "shard-00000-png.rejects.jsonl").write_text("")
    with open(folder / "shard-00000-png.tar", "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="not the tar that"):
        write_token_manifest.main(arguments)


def test_shards_of_different_tokenizers_do_not_mix(model, tmp_path):
    filtered = token_data.write_filtered(tmp_path, token_data.screens(8))
    token_data.tokenise(filtered, model)
    other = token_data.tokenizer_folder(tmp_path / "other", vocab_size=300)
    folder = tmp_path / "tokens" / "screens" / "tiny"
    stem = folder / "shard-00001-png"
    tokenize_shard.main(
        token_data.command_line(
            {
                "options": json.dumps(token_data.OPTIONS),
                "shard": filtered.parent / "shard-00001-png.tar",
                "model": other,
                "output": stem.with_suffix(".tar"),
                "index": stem.with_suffix(".index.parquet"),
                "rejects": stem.with_suffix(".rejects.jsonl"),
            }
        )
    )
    assert read_facts(stem.with_suffix(".index.parquet"))["tokenizer_sha256"] == sha256_file(
        other / "tokenizer.json"
    )
    with pytest.raises(DataError, match="tokenizer_sha256 differs"):
        write_token_manifest.main(
            token_data.command_line(
                {
                    "dataset": "screens",
                    "variant": "tiny",
                    "options": "{}",
                    "filtered": filtered,
                    "folder": folder,
                    "manifest": folder / "manifest.json",
                    "rejects": folder / "rejects.jsonl",
                }
            )
        )
