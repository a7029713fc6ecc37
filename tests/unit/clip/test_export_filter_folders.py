"""What a filter decided as the folders and reports of VaseVQA-3D's scripts."""

from __future__ import annotations

import pytest

import export_filter_folders
from filtered import audited, run_filters
from raw_datasets import command_line, picture, save, tree_bytes
from shardline.errors import ConfigError, DataError
from shardline.exporting.filter_folders import CLASS_FOLDERS
from shardline.exporting.filter_folders import export_filter_folders as export_folders
from shardline.files import read_json


def test_export_of_the_clip_filter_has_the_fields_of_the_seed(vases, model, tmp_path):
    chain = [("clip_quality", {})]
    summary = run_filters(vases, "vases", chain, models=[model])
    arguments = {
        "dataset": "vases", "variant": "v", "results": vases, "output": tmp_path / "out",
    }  # fmt: skip
    export_filter_folders.main(command_line(**arguments, filter="clip_quality"))
    report = read_json(tmp_path / "out/filtering_report.json")
    figures = summary["filters"][0]["figures"]
    assert {key: report[key] for key in report if key != "results"} == {
        "input_directory": str(vases / "raw/vases"),
        "output_directory": str(tmp_path / "out"),
        "total_images": 21,
        "accepted_images": 16,
        "rejected_images": 5,
        "acceptance_rate": 16 / 21,
        "threshold": figures["threshold"],
        "processing_time_seconds": 0.0,
    }
    for result in report["results"]:
        assert set(result) == {
            "filename", "quality_score", "high_quality_similarity", "low_quality_similarity",
            "accepted",
        }  # fmt: skip
        assert result["accepted"] is (result["quality_score"] >= report["threshold"])
        place = "accepted" if result["accepted"] else "rejected"
        raw = vases / "raw/vases/images" / result["filename"]
        assert (tmp_path / "out" / place / result["filename"]).read_bytes() == raw.read_bytes()
    files = tree_bytes(tmp_path / "out")
    assert len(files) == 22
    export_filter_folders.main(command_line(**arguments, filter="clip_quality"))
    assert tree_bytes(tmp_path / "out") == files
    with pytest.raises(ConfigError, match="judge by scores: clip_quality"):
        export_filter_folders.main(command_line(**arguments, filter="best_view"))


def test_export_of_classes_and_of_equal_base_names(tmp_path):
    for number, name in enumerate(["a/front.png", "b/front.png", "a/side.png"]):
        save(picture(number), tmp_path / "raw" / name)
    samples, _ = audited(tmp_path / "raw", (tmp_path / "raw").rglob("*.png"))
    found = {
        item.media[0].sha256: {"score": 0.5 if "a/" in item.media[0].path else 0.4}
        for item in samples
    }
    report = export_classes(tmp_path, samples, found)
    assert set(tree_bytes(tmp_path / "out")) == {
        "filtering_report.json",
        "images3/1/a/front.png",
        "images3/1/side.png",
        "images3/0/b/front.png",
    }
    assert report["accepted_images"] == 2
    (tmp_path / "out/filtering_report.json").unlink()
    with pytest.raises(DataError, match="not of an earlier export"):
        export_classes(tmp_path, samples, found)


def export_classes(tmp_path, samples, found):
    return export_folders(
        samples=samples,
        scores=found,
        threshold=0.5,
        raw=tmp_path / "raw",
        output=tmp_path / "out",
        folders=CLASS_FOLDERS,
    )
