"""Filter chains: decisions, image shards, the overlap gate, manifests whose counts add up."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from PIL import Image

from filtered import context_of, list_shards, message, run_filters, sample, write_shards
from raw_datasets import (
    lock_and_convert,
    picture,
    save,
    screen,
    tree_bytes,
    write_showui,
)
from shardline import perceptual, stored_samples
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import read_json, read_jsonl, sha256_bytes
from shardline.filters import dedup
from shardline.images import decode_audited
from shardline.perceptual import perceptual_hash
from shardline.samples import Medium, Sample
from shardline.series import series_of
from shardline.shards import read_shard


def dataset(results, name, folder, screens):
    """Convert a dataset of (image file, labels) screens whose images are in ``folder``."""
    records = [
        {key: value for key, value in screen(image, labels).items() if key != "img_size"}
        for image, labels in screens
    ]
    write_showui(folder, records)
    options = {"max_reject_share": 0, "shard_rows": 5}
    return lock_and_convert(results, name, folder, "showui", "unit_xyxy", **options)


def decide(results, name, filters, **options):
    return run_filters(results, name, filters.items(), **options)


def rejected(results, name):
    """Row number and reason of each rejected sample."""
    folder = results / f"filtered/{name}/v"
    lines = [
        line
        for entry in read_json(folder / "decisions.json")["shards"]
        for line in read_jsonl(folder / f"decisions-{entry['shard']}.jsonl")
    ]
    return {int(line["id"].rpartition("#")[2]): line for line in lines if not line["kept"]}


@pytest.fixture
def folder(tmp_path):
    """Seven pictures: 0 to 3 differ, the others repeat 0 or are flat."""
    folder = tmp_path / "data"
    for number in range(4):
        save(picture(number, (240, 160)), folder / f"images/{number}.png")
    shutil.copy(folder / "images/0.png", folder / "images/copy.png")
    save(picture(0, (240, 160)).resize((180, 120)), folder / "images/near.jpg", quality=80)
    save(Image.new("RGB", (50, 50), "black"), folder / "images/black.png")
    save(Image.new("RGB", (50, 50), "white"), folder / "images/white.png")
    return folder


SCREENS = [
    ("0.png", ["Save", "Open"]),
    ("1.png", ["Save"]),
    ("copy.png", ["Open"]),  # says nothing new about the same bytes
    ("copy.png", ["Close"]),  # another question about them
    ("near.jpg", ["Save", "Open"]),
    ("near.jpg", ["Print"]),
    ("near.jpg", ["Print"]),
    ("black.png", ["Save"]),
    ("white.png", ["Save"]),
]


def test_dedup_within_a_dataset(folder, results):
    dataset(results, "d", folder, SCREENS)
    summary = decide(results, "d", {"dedup": {}})
    found = rejected(results, "d")
    assert {row: line["reason"] for row, line in found.items()} == {
        2: "exact_duplicate",
        4: "near_duplicate",
        6: "exact_duplicate",
    }
    assert found[4]["detail"]["of"] == "d:metadata/train.json#0"
    assert found[4]["detail"]["paths"] == [["images/near.jpg", "images/0.png"]]
    assert found[4]["detail"]["distances"][0] <= 2
    assert summary["samples"] == {"in": 9, "kept": 6, "rejected": 3}
    assert summary["filters"][0]["figures"] == {
        "exact": 2,
        "near": 1,
        "pictures": 5,
        "flat_pictures": 2,
    }


def test_dedup_of_the_pictures_alone(folder, results):
    dataset(results, "d", folder, SCREENS)
    decide(results, "d", {"dedup": {"same_text": False}})
    assert sorted(rejected(results, "d")) == [2, 3, 4, 5, 6]


def test_dedup_of_equal_hashes_only(folder, results):
    save(picture(0, (240, 160)).crop((0, 0, 236, 157)), folder / "images/cropped.png")
    dataset(results, "d", folder, [("0.png", ["a"]), ("cropped.png", ["a"]), ("copy.png", ["a"])])
    for max_distance, rows in ((0, [2]), (40, [1, 2])):
        decide(results, "d", {"dedup": {"max_distance": max_distance}})
        assert sorted(rejected(results, "d")) == rows


def test_dedup_against_an_earlier_dataset(folder, results):
    dataset(results, "first", folder, [("0.png", ["Save"]), ("2.png", ["Save"])])
    later = folder.parent / "later"
    shutil.copytree(folder, later)
    dataset(results, "second", later, [("3.png", ["Save"]), ("near.jpg", ["Save"])])
    decide(results, "second", {"dedup": {}}, earlier=["first"])
    found = rejected(results, "second")
    assert list(found) == [1] and found[1]["detail"]["of"] == "first:metadata/train.json#0"
    decide(results, "second", {"dedup": {}})
    assert not rejected(results, "second")


def test_one_page_asked_two_things_is_two_samples(shared_data, results):
    source = shared_data / "agentnetbench_trajectories"
    lock_and_convert(results, "an", source, "agentnetbench", "unit_xywh")
    assert decide(results, "an", {"dedup": {}})["samples"]["kept"] == 4
    assert decide(results, "an", {"dedup": {"same_text": False}})["samples"]["kept"] == 3


@pytest.mark.parametrize("same_text", [True, False])
def test_the_first_sample_that_says_as_much_is_the_original(same_text):
    rng = random.Random(7)

    def one(number):
        shown = rng.choices("ab", k=rng.choice([0, 1, 1, 2]))
        said = [message("user", *rng.choices("vwxyz", k=rng.randint(0, 3)))]
        media = [Medium(kind="image", path=f"{name}.png", sha256=name) for name in shown]
        return sample(number, *said, media=media)

    samples = [one(number) for number in range(300)]
    context = context_of(dedup, same_text=same_text)
    context.phashes = lambda of: dict.fromkeys(m.sha256 for one in of for m in one.media)
    expected, kept = {}, []
    for new in samples:
        for old in kept:
            says_more = set(texts_of(new)) - set(texts_of(old))
            if new.media == old.media and not (says_more and (same_text or not new.media)):
                expected[new.id] = old.id
                break
        else:
            kept.append(new)
    rejected = dedup.judge(samples, context).rejected
    assert {name: made.detail["of"] for name, made in rejected.items()} == expected
    assert 100 < len(expected) < 300


def texts_of(sample):
    return [part["text"] for message in sample.messages for part in message["content"]]


def test_overlap_passes_on_other_screens_and_stops_on_copies(folder, results, tmp_path):
    bench = tmp_path / "bench"
    for number in range(10, 18):
        save(picture(number, (240, 160)), bench / f"images/{number}.png")
    dataset(results, "bench", bench, [(f"{number}.png", ["x"]) for number in range(10, 18)])
    dataset(results, "train", folder, [(f"{number}.png", ["Save"]) for number in range(4)])
    summary = decide(results, "train", {"overlap": {}}, benchmarks=["bench"])
    assert summary["filters"][0]["figures"]["matching_images"] == 0
    shutil.copy(bench / "images/12.png", folder / "images/2.png")
    with Image.open(bench / "images/15.png") as image:
        save(image.resize((200, 140)), folder / "images/3.jpg", quality=85)
    screens = [(name, ["Save"]) for name in ("0.png", "1.png", "2.png", "3.jpg", "2.png")]
    dataset(results, "train", folder, screens)
    with pytest.raises(GateError) as caught:
        decide(results, "train", {"overlap": {}}, benchmarks=["bench"])
    message = str(caught.value)
    assert "training dataset train: 2, over" in message and "limit of 0" in message
    assert "images/2.png = bench images/12.png (the same file)" in message
    assert "images/3.jpg = bench images/15.png" in message and "limit: 2" in message
    assert not (results / "filtered/train/v/decisions.json").exists()
    decide(results, "train", {"overlap": {"limit": 2}}, benchmarks=["bench"])
    found = rejected(results, "train")
    assert {row: line["reason"] for row, line in found.items()} == dict.fromkeys(
        (2, 3, 4), "overlap"
    )
    assert found[3]["detail"]["benchmark_path"] == "images/15.png"
    manifest = write_shards(results, "train")
    assert manifest["reasons"] == {"overlap": 3}
    matches = read_json(results / "filtered/train/v/report.json")["filters"][0]["matches"]
    exact = {match["id"].rpartition("#")[2]: match["exact"] for match in matches}
    assert exact == {"2": True, "3": False, "4": True}


def test_shards_hold_the_raw_bytes_and_the_whole_sample(folder, results):
    dataset(results, "d", folder, SCREENS)
    summary = decide(results, "d", {"dedup": {}})
    manifest = write_shards(results, "d")
    assert [entry["shard"] for entry in summary["shards"]] == [
        "00000-jpg",
        "00000-png",
        "00001-jpg",
        "00001-png",
    ]
    assert [shard["name"] for shard in manifest["shards"]] == [
        "shard-00000-png.tar",
        "shard-00001-jpg.tar",
        "shard-00001-png.tar",
    ]  # of the first jpg series nothing was kept
    assert manifest["samples"] == {"in": 9, "kept": 6, "rejected": 3}
    assert sum(shard["samples"] for shard in manifest["shards"]) == 6
    ids = []
    for shard in manifest["shards"]:
        for key, members in read_shard(results / "filtered/d/v" / shard["name"]):
            content = json.loads(members["json"])
            sample = Sample.from_json(json.loads(content["sample"]))
            assert key == sha256_bytes(sample.id.encode())[:16]
            assert content["id"] == sample.id and content["dataset"] == "d"
            extension = sample.media[0].path.rpartition(".")[2]
            assert set(members) == {"json", f"0.{extension}"}
            raw = (folder / sample.media[0].path).read_bytes()
            assert members[f"0.{extension}"] == raw
            ids.append(sample.id)
    elements = {f"d:metadata/train.json#{row}": len(SCREENS[row][1]) for row in range(9)}
    assert manifest["elements"]["kept"] == sum(elements[name] for name in ids)
    lines = list(read_jsonl(results / "filtered/d/v/rejects.jsonl"))
    assert {line["row"] for line in lines} == {f"metadata/train.json#{row}" for row in (2, 4, 6)}
    assert all(line["stage"] == "filter" and line["detail"].startswith("dedup: ") for line in lines)


def test_same_bytes_on_a_rerun_and_on_two_processes(folder, results, tmp_path):
    for number in range(20, 40):
        save(picture(number), folder / f"images/{number}.png")
    screens = SCREENS + [(f"{number}.png", ["x"]) for number in range(20, 40)]
    seen = []
    for place, threads in ((results, 1), (results, 2), (tmp_path / "elsewhere", 2)):
        dataset(place, "d", folder, screens)
        decide(place, "d", {"dedup": {}, "overlap": {}}, threads=threads)
        write_shards(place, "d")
        seen.append(tree_bytes(place / "filtered"))
    assert seen[0] == seen[1] == seen[2]


def test_samples_on_disk_are_judged_as_those_in_memory(folder, results, tmp_path, monkeypatch):
    filters = {"resolution": {"min_width": 60}, "dedup": {}, "overlap": {"limit": 9}}
    seen = []
    for place, at_hand in ((results, 100_000), (tmp_path / "disk", 0)):
        monkeypatch.setattr(stored_samples, "AT_HAND", at_hand)
        for name, screens in (("earlier", SCREENS[:3]), ("bench", SCREENS[:1]), ("d", SCREENS)):
            dataset(place, name, folder, screens)
        decide(place, "d", filters, earlier=["earlier"], benchmarks=["bench"])
        seen.append(tree_bytes(place / "filtered"))
    assert seen[0] == seen[1]


def test_a_picture_is_hashed_once(folder, results, monkeypatch):
    hashed = []

    def hash_file(path):
        hashed.append(Path(path).name)
        return perceptual_hash(decode_audited(path))

    monkeypatch.setattr(perceptual, "hash_file", hash_file)
    dataset(results, "bench", folder, [("1.png", ["x"])])
    dataset(results, "d", folder, SCREENS[2:])
    chain = {"dedup": {}, "overlap": {}}
    decide(results, "d", chain, benchmarks=["bench"])
    contents = ["1.png", "black.png", "copy.png", "near.jpg", "white.png"]
    assert sorted(hashed) == contents
    first = tree_bytes(results / "filtered")
    hashed.clear()
    decide(results, "d", chain, benchmarks=["bench"])
    assert not hashed and tree_bytes(results / "filtered") == first
    save(picture(9), folder / "images/2.png")
    dataset(results, "d", folder, [*SCREENS[2:], ("2.png", ["x"])])
    decide(results, "d", {"dedup": {"max_distance": 0}})
    assert hashed == ["2.png"]


def test_other_code_or_packages_hash_anew(folder, results, monkeypatch):
    dataset(results, "d", folder, SCREENS)
    decide(results, "d", {"dedup": {}})
    [table] = (results / "scores/d").glob(".phashes-*.npy")
    for name, other in (
        ("closure", lambda file: ["scripts/shardline/images.py@other"]),
        ("package_versions", lambda *packages: dict.fromkeys(packages, "0")),
    ):
        monkeypatch.setattr(perceptual, name, other)
        decide(results, "d", {"dedup": {}})
        [fresh] = (results / "scores/d").glob(".phashes-*.npy")
        assert fresh.name != table.name and fresh.stat().st_size
        table = fresh


def test_a_changed_sample_changes_what_was_decided_about_its_shard_only(folder, results):
    dataset(results, "d", folder, SCREENS)
    before = decide(results, "d", {})["shards"]
    dataset(results, "d", folder, [*SCREENS[:-1], ("white.png", ["Quit"])])
    after = decide(results, "d", {})["shards"]
    changed = [a["shard"] for a, b in zip(after, before, strict=True) if a["sha256"] != b["sha256"]]
    assert changed == ["00001-png"]


def test_a_shorter_run_removes_what_it_did_not_write(folder, results):
    dataset(results, "d", folder, SCREENS)
    decide(results, "d", {})
    dataset(results, "d", folder, SCREENS[:2])
    decide(results, "d", {})
    names = {path.name for path in (results / "filtered/d/v").iterdir()}
    assert names == {"decisions.json", "decisions-00000-png.jsonl"}


def test_inputs_that_changed_are_refused(folder, results):
    dataset(results, "d", folder, SCREENS[:2])
    decide(results, "d", {})
    save(picture(77), folder / "images/1.png")
    with pytest.raises(DataError, match=r"1\.png changed since d was converted"):
        write_shards(results, "d")
    assert not list((results / "filtered/d/v").glob("*.tar"))
    lines = results / "filtered/d/v/decisions-00000-png.jsonl"
    lines.write_text("")
    with pytest.raises(DataError, match="run the filters again"):
        write_shards(results, "d")
    shard = next((results / "converted/d").glob("samples-*"))
    shard.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"samples-00000\.jsonl\.zst is not what .*/converted/d/.* says; run"
    ):
        decide(results, "d", {})


def test_a_missing_shard_is_named(folder, results):
    dataset(results, "d", folder, SCREENS[:2])
    decide(results, "d", {})
    write_shards(results, "d")
    (results / "filtered/d/v/shard-00000-png.tar").unlink()
    with pytest.raises(DataError, match=r"shard-00000-png\.tar: no such shard"):
        list_shards(results, "d")


def test_unknown_filters_and_options(folder, results):
    dataset(results, "d", folder, SCREENS[:2])
    with pytest.raises(ConfigError, match="no option distance; there are: max_distance"):
        decide(results, "d", {"dedup": {"distance": 1}})
    with pytest.raises(ConfigError, match="dedup"):
        decide(results, "d", {"duplicates": {}})


def test_a_plugin_adds_a_filter(folder, results, tmp_path):
    plugin = tmp_path / "my_filter.py"
    plugin.write_text(
        "from shardline.decisions import Decision, Verdict\n"
        "class Short:\n"
        "    DEFAULTS = {'elements': 2}\n"
        "    CONTEXT = ()\n"
        "    @staticmethod\n"
        "    def judge(samples, context):\n"
        "        return Verdict({s.id: Decision('few', {'elements': len(s.boxes)})\n"
        "                        for s in samples if len(s.boxes) < context.options['elements']})\n"
        "shardline_filters = {'short': Short}\n"
    )
    dataset(results, "d", folder, SCREENS)
    decide(results, "d", {"dedup": {}, "short": {}}, plugins=[str(plugin)])
    found = rejected(results, "d")
    assert {row for row, line in found.items() if line["filter"] == "short"} == {1, 3, 5, 7, 8}
    assert write_shards(results, "d")["reasons"]["few"] == 5


@pytest.mark.parametrize(
    ("paths", "series"),
    [
        ([], "none"),
        (["a.png"], "png"),
        (["a.PNG", "b.png", "c.jpeg"], "2png-jpeg"),
        (["a.png", "b.jpg", "c.png"], "png-jpg-png"),
        (["a", "b.c d"], "2bin"),
    ],
)
def test_series(paths, series):
    media = [Medium(kind="image", path=path) for path in paths]
    assert series_of(Sample(id="a", dataset="d", media=media)) == series
