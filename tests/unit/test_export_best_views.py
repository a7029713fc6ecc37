"""The best views as VaseVQA-3D's scripts leave them."""

from __future__ import annotations

import pytest

from filtered import audited, message, sample
from raw_datasets import picture, save, tree_bytes
from shardline.errors import DataError
from shardline.exporting.best_views import export_best_views
from shardline.files import read_json


@pytest.fixture
def vases(tmp_path):
    """Samples of two vases and a lone picture, and what a scorer says of them."""
    names = {"b/1_0.jpg": 0.25, "b/1_1.jpg": 0.5, "a/2_3.jpg": 0.125, "a/lone.jpg": 0.75}
    for number, name in enumerate(names):
        save(picture(number), tmp_path / "raw" / name)
    samples, _ = audited(tmp_path / "raw", (tmp_path / "raw" / name for name in names))
    scores = {item.media[0].sha256: names[item.media[0].path] for item in samples}
    for item in samples:
        vase, _, number = item.media[0].path[2:-4].partition("_")
        item.group, item.meta = (vase, {"view": int(number)}) if number else ("", {})
    return samples, scores


def export(tmp_path, samples, scores, **options):
    return export_best_views(
        samples=samples,
        scores={sha256: {"score": 9.0, "high": score} for sha256, score in scores.items()},
        scorer="clip_quality",
        score="high",
        raw=tmp_path / "raw",
        output=tmp_path / "out",
        **options,
    )


def test_export_has_the_fields_of_the_seed(vases, tmp_path):
    report = export(tmp_path, *vases, seconds=90.0)
    assert report == read_json(tmp_path / "out/best_views_report.json")
    assert report == {
        "input_directory": str(tmp_path / "raw"),
        "output_directory": str(tmp_path / "out"),
        "processing_time_seconds": 90.0,
        "total_vases": 2,
        "total_original_images": 3,
        "total_selected_images": 2,
        "reduction_rate": pytest.approx(1 / 3),
        "average_clip_score": 0.3125,
        "scorer": "clip_quality",
        "results": [
            {
                "vase_id": "1",
                "selected_view": 1,
                "selected_filename": "1_1.jpg",
                "clip_score": 0.5,
                "total_views": 2,
                "reason": "best_clip_score",
                "all_view_scores": [
                    {"view_number": 0, "filename": "1_0.jpg", "clip_score": 0.25},
                    {"view_number": 1, "filename": "1_1.jpg", "clip_score": 0.5},
                ],
            },
            {
                "vase_id": "2",
                "selected_view": 3,
                "selected_filename": "2_3.jpg",
                "clip_score": 0.125,
                "total_views": 1,
                "reason": "only_one_view",
            },
        ],
    }
    assert read_json(tmp_path / "out/filtering_stats.json") == {
        "summary": {
            "total_vases": 2,
            "original_images": 3,
            "selected_images": 2,
            "reduction_rate": "33.3%",
            "average_clip_score": "0.3125",
            "processing_time_minutes": "1.5",
        },
        "view_distribution": {"1": 1, "2": 1},
        "clip_score_stats": {"min": 0.125, "max": 0.5, "mean": 0.3125, "std": 0.1875},
        "scorer": "clip_quality",
    }
    files = tree_bytes(tmp_path / "out/best_views")
    raw = tmp_path / "raw"
    assert files == {
        "1_1.jpg": (raw / "b/1_1.jpg").read_bytes(),
        "2_3.jpg": (raw / "a/2_3.jpg").read_bytes(),
    }


def test_export_again_replaces_what_an_earlier_one_left(vases, tmp_path):
    samples, scores = vases
    export(tmp_path, samples, scores)
    save(picture(50), tmp_path / "out/.best_views.tmp/half.png")  # as a killed one leaves it
    export(tmp_path, samples, {sha256: -score for sha256, score in scores.items()})
    assert set(tree_bytes(tmp_path / "out/best_views")) == {"1_0.jpg", "2_3.jpg"}
    first = tree_bytes(tmp_path / "out")
    export(tmp_path, samples, {sha256: -score for sha256, score in scores.items()})
    assert tree_bytes(tmp_path / "out") == first
    (tmp_path / "out/best_views_report.json").unlink()
    with pytest.raises(DataError, match="not of an earlier export"):
        export(tmp_path, samples, scores)


def test_export_of_equal_base_names_and_of_nothing(tmp_path):
    for folder in "ab":
        save(picture(1), tmp_path / f"raw/{folder}/front.png")
    save(picture(2), tmp_path / "raw/a/side.png")
    paths = [tmp_path / "raw" / name for name in ("a/front.png", "a/side.png", "b/front.png")]
    samples, _ = audited(tmp_path / "raw", paths)
    for item, group in zip(samples, ("x", "y", "z"), strict=True):
        item.group = group
    scores = {item.media[0].sha256: 1.0 for item in samples}
    report = export(tmp_path, samples, scores)
    names = {"a/front.png", "side.png", "b/front.png"}
    assert set(tree_bytes(tmp_path / "out/best_views")) == names
    assert {result["selected_filename"] for result in report["results"]} == names
    report = export(tmp_path, [], {})
    assert report["total_vases"] == 0 and report["average_clip_score"] is None
    assert report["reduction_rate"] == 0 and not tree_bytes(tmp_path / "out/best_views")


def test_export_refuses_what_it_cannot_say(vases, tmp_path):
    samples, scores = vases
    with pytest.raises(DataError, match=r"group 9: d:rows\.json#9 shows 0 files"):
        export(tmp_path, [*samples, sample(9, message("user", "?"), group="9")], scores)
    save(picture(99), tmp_path / "raw/b/1_1.jpg")
    with pytest.raises(DataError, match=r"1_1\.jpg changed since it was converted"):
        export(tmp_path, samples, scores)
    (tmp_path / "raw/a/2_3.jpg").unlink()
    with pytest.raises(DataError, match=r"2_3\.jpg changed since it was converted"):
        export(tmp_path, [item for item in samples if item.group == "2"], scores)
    assert not tree_bytes(tmp_path / "out")
