"""Where the media are that rows name."""

from __future__ import annotations

from llava_rows import read, read_one, talk, write_lines
from raw_datasets import (
    picture,
    save,
)
from shardline.media_paths import MediaFinder
from shardline.rows import Rejection


def test_files_with_a_builders_folders_around_them(tmp_path):
    base = "language/set/"
    for path in ("a/1.png", "mnt/builder/a/2.png", "mnt/builder/b/3.png", "other/b/3.png"):
        save(picture(1), tmp_path / base / path)
    save(picture(1), tmp_path / "language/next/c/4.png")
    names = ["a/1.png", "a/2.png", "/srv/x/a/2.png", "b/3.png", "c/4.png", "2.png", "a/5.png"]
    rows = [talk("<image>", "A.", image=name) for name in names]
    write_lines(tmp_path / base / "set.jsonl", rows)
    found = [
        row.rejection.reason if row.rejection else row.media[0].path.removeprefix(base)
        for row in read(tmp_path)
    ]
    assert found == [
        "a/1.png",
        "mnt/builder/a/2.png",
        "unsafe_path",  # absolute, and it would take leaving out and putting in folders
        "ambiguous_media",
        "c/4.png",  # missing: another set's file is not this one's
        "2.png",  # missing: a name alone is found in no other folder
        "a/5.png",
    ]


def test_names_from_above_the_data(tmp_path):
    save(picture(1), tmp_path / "images/train/1.png")
    save(picture(1), tmp_path / "train/2.png")
    (tmp_path / "images/val").mkdir()
    cases = {
        "images/train/1.png": "images/train/1.png",
        "train/1.png": "images/train/1.png",
        "coco/images/train/1.png": "images/train/1.png",
        "/data/coco/images/train/1.png": "images/train/1.png",
        "file:///data/coco/train/2.png": "train/2.png",
        "//data//coco//train//2.png": "train/2.png",
        " ./train/2.png": "train/2.png",
        "images/val/train/2.png": "images/val/train/2.png",  # missing: images is there
        "/data/images/train/2.png": "unsafe_path",  # so is images/train
        "/data/2.png": "unsafe_path",
    }
    finder = MediaFinder(tmp_path)
    for name, expected in cases.items():
        try:
            assert finder.medium("image", name, ".").path == expected, name
        except Rejection as rejection:
            assert rejection.reason == expected, name
    finder = MediaFinder(tmp_path, ["images"], "/data")
    assert finder.medium("image", "/data/train/1.png", "meta").path == "images/train/1.png"
    assert finder.medium("image", "/data/train/3.png", "meta").path == "images/train/3.png"
    assert finder.medium("image", "/database/train/2.png", ".").path == "train/2.png"


def test_folders_that_are_links_in_a_circle(raw):
    (raw / "a/again").symlink_to(raw, target_is_directory=True)
    row = read_one(raw, talk("<image>", "A.", image="gone/1.png"))
    assert row.media[0].path == "gone/1.png"
