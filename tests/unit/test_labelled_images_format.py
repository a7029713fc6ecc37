"""Folders whose names are labels."""

from __future__ import annotations

import pytest

from classifiers import vase
from raw_datasets import check_sums, lock_and_convert, rejects_of, samples_of, save
from shardline.classifier.labelled import read_labelled, split
from shardline.errors import ConfigError, DataError


def test_folders_are_labels_and_equal_names_do_not_collide(tmp_path):
    raw = tmp_path / "raw"
    for number, name in enumerate(
        ("0/a.PNG", "0/deep/a.png", "1/a.png", "1/b.JpG", "1/c.TIFF", "1/d.webp", "stray.png")
    ):
        save(vase(number, True), raw / name)
    (raw / "1/notes.txt").write_text("kept apart")
    (raw / "1/broken.jpeg").write_bytes(b"\xff\xd8\xff no picture")
    results = tmp_path / "results"
    manifest = lock_and_convert(results, "d", raw, "labelled_images", None)
    samples = samples_of(results, "d")
    assert {s["media"][0]["path"]: s["meta"]["label"] for s in samples} == {
        "0/a.PNG": "0", "0/deep/a.png": "0", "1/a.png": "1", "1/b.JpG": "1", "1/c.TIFF": "1",
        "1/d.webp": "1",
    }  # fmt: skip
    assert len({s["id"] for s in samples}) == 6
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    assert {line["row"]: line["reason"] for line in rejects} == {
        "stray.png#0": "no_label",
        "1/broken.jpeg#0": "corrupt_image",
    }
    plain = {"classes": False, "folder": "1"}
    lock_and_convert(results, "e", raw, "labelled_images", None, format_options=plain)
    assert [s["media"][0]["path"] for s in samples_of(results, "e")] == [
        "1/a.png", "1/b.JpG", "1/c.TIFF", "1/d.webp",
    ]  # fmt: skip
    assert all(s["meta"] == {} for s in samples_of(results, "e"))


def test_real_folders_as_classes(shared_data, tmp_path):
    results, raw = tmp_path / "results", shared_data / "multiview_chicken"
    manifest = lock_and_convert(results, "chicken", raw, "labelled_images", None)
    assert manifest["rows"] == {"in": 48, "kept": 48, "rejected": 0}
    found = read_labelled(results / "converted/chicken/manifest.json", "chicken-gt")
    assert found.counts == {"chicken-gt": 32, "chicken-pr": 16}
    parts = split(found, 42)
    assert len(parts["validation"]) == len(parts["test"]) == 5 and not found.contradicting


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "2"}, "no picture"),
        ({"classes": "yes"}, "classes: 'yes'; allowed: true, false"),
        ({"folder": 3}, "folder: 3 is no text"),
        ({"class": True}, "no option class"),
    ],
)
def test_options_of_the_format_are_checked(tmp_path, options, message):
    save(vase(1, True), tmp_path / "raw/0/a.png")
    with pytest.raises((ConfigError, DataError), match=message):
        lock_and_convert(
            tmp_path / "results", "d", tmp_path / "raw", "labelled_images", None,
            format_options=options,
        )  # fmt: skip
