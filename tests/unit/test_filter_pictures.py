"""Pictures of filters: histograms that add up, sheets that show what was kept and what was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import draw_filter_pictures
import write_report
from filtered import run_filters
from raw_datasets import command_line, lock_and_convert, picture, save, tree_bytes
from results_tree import options as report_options
from shardline.files import read_json, sha256_file
from shardline.reporting.contact_sheets import GAP, LINE, LINES, PICTURE
from shardline.reporting.filter_pictures import Lot, bins

PLUGIN = """
from PIL import Image
from shardline.decisions import Decision, Verdict

class Brightness:
    DEFAULTS = {}
    @staticmethod
    def score(files, options, run):
        for file in files:
            yield {"score": Image.open(file).convert("L").getpixel((0, 0)) / 255}

class Bright:
    DEFAULTS = {"threshold": 0.5}
    CONTEXT = ()
    @staticmethod
    def scorer(options):
        return "brightness", {}
    @staticmethod
    def judge(samples, context):
        low = {s.id: Decision("dark") for s in samples for m in s.media
               if context.scores[m.sha256]["score"] < context.options["threshold"]}
        return Verdict(low)

shardline_scorers = {"brightness": Brightness}
shardline_filters = {"bright": Bright}
"""


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=60),
    st.none() | st.floats(-3, 3, width=32),
)
def test_no_bar_stands_on_both_sides_of_the_threshold(values, threshold):
    counts, edges = bins(values, threshold)
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1 <= 45
    assert edges == sorted(set(edges))
    if threshold is not None:
        assert edges[0] <= threshold <= edges[-1]
        low = sum(count for count, left in zip(counts, edges, strict=False) if left < threshold)
        assert low == sum(value < threshold for value in values)


@given(st.lists(st.text("0123456789abcdef", min_size=4, max_size=4)), st.integers(1, 3))
def test_the_lot_draws_the_smallest_keys_once(keys, most):
    lot = Lot(most)
    for key in keys:
        lot.add(key, key)
    assert lot.drawn() == sorted(set(keys))[:most]


def rows_of(folder, names):
    """Write a llava file with a row an image."""
    says = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    rows = [{"id": name, "image": name, "conversations": says} for name in names]
    (folder / "rows.json").write_text(json.dumps(rows))


@pytest.fixture
def results(tmp_path):
    """Dataset ``grey`` of 30 flat pictures from black to white."""
    folder = tmp_path / "grey"
    names = [f"{level:03}.png" for level in range(0, 240, 8)]
    for name in names:
        save(Image.new("RGB", (90, 60), (int(name[:3]),) * 3), folder / name)
    rows_of(folder, names)
    lock_and_convert(tmp_path / "results", "grey", folder, "llava", None)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path / "results"


def draw(results, dataset):
    """The index, by file, and the folder of the pictures."""
    folder = results / f"filtered/{dataset}/v"
    arguments = {"decisions": folder / "decisions.json", "results": results}
    draw_filter_pictures.main(command_line(**arguments, index=folder / "pictures.json"))
    content = read_json(folder / "pictures.json")
    assert (content["dataset"], content["variant"]) == (dataset, "v")
    for entry in content["pictures"]:
        file = folder / "pictures" / entry["file"]
        assert (sha256_file(file), file.stat().st_size) == (entry["sha256"], entry["bytes"])
    files = {entry["file"] for entry in content["pictures"]}
    assert files == {path.name for path in (folder / "pictures").iterdir()}
    return {entry["file"]: entry for entry in content["pictures"]}, folder / "pictures"


def middles(path: Path, tiles: int, group: int = 1) -> np.ndarray:
    """The colour near the middle of each tile of a sheet."""
    with Image.open(path) as image:
        sheet = image.convert("RGB")
    found = []
    for index in range(tiles):
        column, row = index % 6, index // 6
        x = GAP + column * (PICTURE[0] + GAP) + (column // group * GAP if group > 1 else 0)
        y = GAP + row * (PICTURE[1] + LINES * LINE + GAP)
        found.append(sheet.getpixel((x + PICTURE[0] // 2 + 7, y + PICTURE[1] // 2 + 6)))
    return np.array(found)


def bright(results, **options):
    return run_filters(
        results, "grey", [("bright", options)], plugins=[results.parent / "plugin.py"]
    )


def test_a_filter_by_score_has_a_histogram_and_three_sheets(results):
    bright(results)
    index, folder = draw(results, "grey")
    assert list(index) == [
        "0-bright-scores.svg",
        "0-bright-borderline.jpg",
        "0-bright-rejected.jpg",
        "kept.jpg",
    ]
    shown = index["0-bright-scores.svg"]
    assert sum(shown["counts"]) == 30 and shown["threshold"] == 0.5
    assert shown["caption"] == "30 images, 16 of them below the threshold 0.5."
    svg = (folder / "0-bright-scores.svg").read_text()
    assert svg.startswith("<svg ") and "xmlns=" in svg.partition(">")[0]
    assert svg.count('class="below"') + svg.count('class="above"') == sum(
        count > 0 for count in shown["counts"]
    )
    levels = middles(folder / "0-bright-borderline.jpg", 18)[:, 0]
    assert levels == pytest.approx(np.arange(7, 25) * 8, abs=3)  # nine on each side of 127.5
    assert middles(folder / "0-bright-rejected.jpg", 16).max() <= 123
    assert middles(folder / "kept.jpg", 14).min() >= 125
    assert index["0-bright-rejected.jpg"]["caption"] == "16 images of 16 rejected samples."
    assert index["kept.jpg"]["caption"] == "14 images of 14 kept samples."


def test_pictures_repeat_to_the_byte_and_others_go(results):
    bright(results)
    _, folder = draw(results, "grey")
    first = tree_bytes(folder.parent)
    (folder / "old.jpg").write_bytes(b"of another chain")
    draw(results, "grey")
    assert tree_bytes(folder.parent) == first
    assert sum(len(data) for data in tree_bytes(folder).values()) < 150_000
    bright(results, threshold=0.0)
    index, _ = draw(results, "grey")
    assert "0-bright-rejected.jpg" not in index
    assert index["kept.jpg"]["caption"] == "18 images, drawn by lot, of 30 kept samples."


def test_a_later_filter_shows_only_what_it_was_given(results):
    chain = [("resolution", {"min_width": 91}), ("bright", {})]
    run_filters(results, "grey", chain, plugins=[results.parent / "plugin.py"])
    index, _ = draw(results, "grey")
    assert list(index) == ["0-resolution-rejected.jpg"]


def test_copies_stand_beside_what_they_repeat(tmp_path):
    results = tmp_path / "results"
    for name in ("bench", "train"):
        (tmp_path / name).mkdir()
    for number in range(3):
        save(picture(number), tmp_path / f"bench/{number}.png")
        save(picture(number + 10), tmp_path / f"train/{number}.png")
    shutil.copy(tmp_path / "bench/1.png", tmp_path / "train/taken.png")
    save(picture(12), tmp_path / "train/again.jpg", quality=80)
    rows_of(tmp_path / "bench", ["0.png", "1.png", "2.png"])
    rows_of(tmp_path / "train", ["0.png", "1.png", "2.png", "again.jpg", "taken.png"])
    for name in ("bench", "train"):
        lock_and_convert(results, name, tmp_path / name, "llava", None)
    chain = [("dedup", {}), ("overlap", {"limit": 1})]
    run_filters(results, "train", chain, benchmarks=["bench"])
    index, folder = draw(results, "train")
    assert list(index) == ["0-dedup-matches.jpg", "1-overlap-matches.jpg", "kept.jpg"]
    for name in ("0-dedup-matches.jpg", "1-overlap-matches.jpg"):
        copy, original = middles(folder / name, 2, group=2)
        assert copy == pytest.approx(original, abs=8)
        assert index[name]["caption"] == "1 pair of 1 rejected sample."
    other = middles(folder / "0-dedup-matches.jpg", 1)
    assert abs(other - middles(folder / "1-overlap-matches.jpg", 1)).max() > 8


def test_a_lost_image_is_a_tile_that_says_so(results):
    bright(results)
    raw = (results / "raw/grey").resolve()
    (raw / "232.png").unlink()
    (raw / "224.png").write_bytes(b"no picture")
    index, _ = draw(results, "grey")
    assert index["kept.jpg"]["caption"] == "14 images of 14 kept samples."


def test_a_chain_of_no_filters_has_no_pictures(results):
    run_filters(results, "grey", [])
    assert draw(results, "grey")[0] == {}


def page_of(results: Path) -> str:
    options = report_options()
    train = dict(options["datasets"][0], name="grey", filter="v")
    options["datasets"] = [train]
    folder = results / "reports"
    write_report.main(
        [
            f"--options={json.dumps(options)}",
            f"--results={results}",
            f"--output={folder / 'index.html'}",
            f"--summary={folder / 'summary.json'}",
            f"--card={folder / 'MODEL_CARD.md'}",
        ]
    )
    return (folder / "index.html").read_text()


def test_the_report_shows_the_pictures_of_training_data(results):
    bright(results)
    assert "Filters of grey" not in page_of(results)
    _, folder = draw(results, "grey")
    page = page_of(results)
    assert "Filters of grey" in page and page.count("<img ") == 3
    assert page.count('class="threshold"') == 1
    assert "30 images, 16 of them below the threshold 0.5." in page
    (folder / "kept.jpg").unlink()
    assert "The picture kept.jpg is gone." in page_of(results)


def test_titles_are_escaped(results):
    bright(results)
    _, folder = draw(results, "grey")
    index = read_json(folder.with_suffix(".json"))
    for entry in index["pictures"]:
        entry["title"] = entry["caption"] = "<script>alert(1)</script>"
    folder.with_suffix(".json").write_text(json.dumps(index))
    assert "<script" not in page_of(results)


def test_pictures_of_real_views(shared_data, tmp_path):
    results = tmp_path / "results"
    options = {"group": r"(?P<group>chicken-[a-z]+)/(?P<view>\d+)"}
    raw = shared_data / "multiview_chicken"
    lock_and_convert(results, "chicken", raw, "multiview", None, format_options=options)
    run_filters(results, "chicken", [("best_view", {})])
    index, folder = draw(results, "chicken")
    assert list(index) == ["0-best_view-scores.svg", "0-best_view-rejected.jpg", "kept.jpg"]
    assert sum(index["0-best_view-scores.svg"]["counts"]) == 32
    assert index["0-best_view-scores.svg"]["threshold"] is None
    assert all(path.stat().st_size < 200_000 for path in folder.iterdir())
