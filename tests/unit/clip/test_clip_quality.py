"""The CLIP filter: thresholds as NumPy says, options, and what is left out of the statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_scores import row, scores, straight_line
from filtered import context_of, message, rejected, run_filters, sample
from project_root import ROOT
from raw_datasets import lock_and_convert, picture, save, tree_bytes
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.errors import ConfigError
from shardline.files import read_json, read_jsonl
from shardline.filters import best_view, clip_quality
from shardline.samples import Medium
from shardline.scorers import clip_quality as scorer


def with_scores(values, **options):
    """What the filter says of one sample an image of these scores."""
    samples = [
        sample(number, media=[Medium(kind="image", path=f"{number}.png", sha256=f"{number:04}")])
        for number in range(len(values))
    ]
    found = {f"{number:04}": {"score": value} for number, value in enumerate(values)}
    context = context_of(clip_quality, scores=found, **options)
    return clip_quality.judge(samples, context)


def test_an_automatic_threshold_is_the_percentile_and_keeps_ties():
    verdict = with_scores([0, 0.1, 0.2, 0.3, 0.4])
    assert verdict.figures["threshold"] == pytest.approx(0.1)
    assert rejected(verdict) == {0: "low_quality"}
    assert verdict.rejected["d:rows.json#0"].detail == {
        "path": "0.png",
        "score": 0,
        "threshold": verdict.figures["threshold"],
    }
    assert rejected(with_scores([0.5] * 9)) == {}


def test_a_fixed_threshold_takes_what_reaches_it():
    assert rejected(with_scores([1.0], mode="fixed", threshold=1.0)) == {}
    assert rejected(with_scores([1.0], mode="fixed", threshold=1.01)) == {0: "low_quality"}
    assert rejected(with_scores([-0.2], mode="fixed", threshold=0.1)) == {0: "low_quality"}


def test_analysis_keeps_all_and_recommends():
    values = np.random.default_rng(4).normal(0.02, 0.05, 40).tolist()
    verdict = with_scores(values, mode="analyse")
    assert not verdict.rejected and verdict.figures["threshold"] is None
    assert verdict.figures["accepted_images"] == 40 and verdict.figures["acceptance_rate"] == 1
    names = {"conservative": 10, "medium": 25, "balanced": 50, "aggressive": 75, "strict": 90}
    assert verdict.figures["recommended"] == pytest.approx(
        {name: np.percentile(values, p) for name, p in names.items()}
    )
    assert verdict.figures["statistics"] == pytest.approx(
        {
            "mean": np.mean(values),
            "std": np.std(values),
            "min": min(values),
            "max": max(values),
            "median": np.median(values),
            **{f"percentile_{p}": np.percentile(values, p) for p in names.values()},
        }
    )


def test_a_quick_look_scores_a_share_and_keeps_all(vases, model):
    options = {"mode": "analyse", "share": 0.5}
    summary = run_filters(vases, "vases", [("clip_quality", options)], models=[model])
    folder = vases / "scores/vases" / summary["filters"][0]["scores"]
    content = read_json(folder / "manifest.json")
    whole = run_filters(
        vases, "vases", [("clip_quality", {"mode": "analyse"})], models=[model], variant="all"
    )
    seen, total = content["images"], whole["filters"][0]["figures"]["total_images"]
    assert 0 < seen < total
    figures = summary["filters"][0]["figures"]
    assert figures["total_images"] == figures["sample"]["images"] == seen
    assert summary["samples"] == whole["samples"] and not summary["samples"]["rejected"]


@given(
    st.lists(st.floats(-2, 2, width=32), max_size=30),
    st.floats(0, 100),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_counts_add_up_and_the_sample_is_what_numpy_is_asked_about(values, percentile, size, seed):
    verdict = with_scores(values, percentile=percentile, sample_size=size, seed=seed)
    figures = verdict.figures
    assert figures["sample"] == {"images": min(size, len(values)), "of": len(values)}
    assert figures["total_images"] == len(values)
    assert figures["rejected_images"] == len(verdict.rejected)
    assert figures["accepted_images"] + figures["rejected_images"] == len(values)
    if values and size >= len(values):
        threshold = np.percentile(values, percentile)
        assert figures["threshold"] == pytest.approx(threshold, abs=1e-9)
        assert len(rejected(verdict)) == sum(value < figures["threshold"] for value in values)


def test_the_sample_is_seeded_and_does_not_depend_on_the_order():
    values = np.random.default_rng(1).normal(size=300).tolist()
    first = with_scores(values, sample_size=30).figures
    assert with_scores(values, sample_size=30).figures == first
    assert with_scores(values, sample_size=30, seed=1).figures["threshold"] != first["threshold"]
    grown = with_scores([*values, *[9.0] * 3], sample_size=30).figures
    assert grown["statistics"]["max"] in (first["statistics"]["max"], 9.0)
    assert first["sample"] == {"images": 30, "of": 300}


def test_a_sample_is_as_good_as_its_worst_image():
    pair = [Medium(kind="image", path=f"{name}.png", sha256=name) for name in ("good", "bad")]
    samples = [
        sample(0, media=pair),
        sample(1, media=pair[:1]),
        sample(2, message("user", "no picture")),
        sample(3, media=[Medium(kind="video", path="v.mp4", sha256="video")]),
    ]
    found = {"good": {"score": 0.2}, "bad": {"score": -0.2}}
    context = context_of(clip_quality, scores=found, mode="fixed", threshold=0.0)
    verdict = clip_quality.judge(samples, context)
    assert rejected(verdict) == {0: "low_quality"}
    assert verdict.rejected["d:rows.json#0"].detail["path"] == "bad.png"
    assert verdict.figures["samples_without_images"] == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "ask"}, "mode: 'ask'; allowed: automatic, fixed, analyse"),
        ({"mode": "fixed"}, "threshold: None; allowed with mode fixed: a number"),
        ({"mode": "fixed", "threshold": True}, "threshold: True"),
        ({"mode": "fixed", "threshold": float("nan")}, "threshold: nan"),
        ({"threshold": 0.1}, "threshold: 0.1; allowed with mode fixed alone, not automatic"),
        ({"percentile": 101}, "percentile: 101; allowed: 0 to 100"),
        ({"sample_size": 0}, "sample_size: 0"),
        ({"share": 0.5}, "share: 0.5; allowed with mode automatic: 1.0"),
    ],
)
def test_options_that_make_no_sense_are_config_errors(options, problem):
    with pytest.raises(ConfigError, match=problem):
        clip_quality.check({**clip_quality.DEFAULTS, **options})
    with pytest.raises(ConfigError, match=rf"recipes\.mine.*filters\.clip_quality\.{problem[:4]}"):
        project([{"clip_quality": options}])


def test_views_are_compared_by_all_their_scores():
    options = {"scorer": "clip_quality", "scorer_options": {"share": 0.5}}
    with pytest.raises(ConfigError, match=r"recipes\.mine.*best_view\.scorer_options: share 0.5"):
        project([{"best_view": options}])


@pytest.mark.parametrize("options", [{"high": []}, {"low": ["", "x"]}, {"low": [1]}])
def test_prompts_are_texts(options):
    (side,) = options
    with pytest.raises(ConfigError, match=f"recipes\\.mine.*{side}: .*; allowed: a list"):
        project([{"clip_quality": options}])
    with pytest.raises(ConfigError, match=f"recipes\\.mine.*{side}: .*; allowed: a list"):
        project([{"best_view": {"scorer": "clip_quality", "scorer_options": options}}])


def project(filters):
    recipe = {"extends": "demo", "filters": filters}
    layer = Layer("mine.yaml", {"build": ["mine"], "recipes": {"mine": recipe}})
    return Project(load([*project_layers(ROOT), layer]), ROOT)


def test_another_threshold_shares_the_scores_and_another_prompt_does_not():
    def scored(**options):
        return {name for _, name in project([{"clip_quality": options}]).score_images}

    assert scored() == scored(mode="fixed", threshold=0.1) == scored(percentile=10, seed=3)
    assert scored() != scored(low=["a broken vase"])
    both = project(["clip_quality", {"best_view": {"scorer": "clip_quality", "score": "high"}}])
    assert {name for _, name in both.score_images} == scored()
    (fetched,) = (
        options for (name,), options in both.source_models.fetch.items() if "CLIP" in name
    )
    assert fetched["source"] == scorer.DEFAULTS["model"]
    with pytest.raises(ConfigError, match=r"clip_quality\.model = '/data/clip'"):
        project([{"clip_quality": {"model": "/data/clip"}}])


def test_unreadable_files_enter_no_statistic(vases, pictures, model):
    summary = run_filters(vases, "vases", [("clip_quality", {})], models=[model])
    (entry,) = summary["filters"]
    values = [straight_line(file, model) for file in pictures]
    values = [high - low for high, low in values]
    figures = entry["figures"]
    assert figures["total_images"] == len(pictures)
    assert figures["threshold"] == pytest.approx(np.percentile(values, 25), abs=1e-5)
    assert figures["statistics"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert summary["samples"] == {"in": 21, "kept": 16, "rejected": 5}
    assert {row["reason"] for row in read_jsonl(vases / "converted/vases/rejects.jsonl")} == {
        "corrupt_image",
        "empty_file",
    }
    assert entry["options"]["model"] == clip_quality.DEFAULTS["model"]
    assert entry["options"]["high"] == scorer.DEFAULTS["high"]


def test_a_threshold_found_once_stays_when_the_dataset_grows(vases, model):
    chain = [("clip_quality", {})]
    before = run_filters(vases, "vases", chain, models=[model])
    first = tree_bytes(vases / "filtered")
    run_filters(vases, "vases", chain, models=[model])
    assert tree_bytes(vases / "filtered") == first
    folder = vases.parent / "vases"
    rows = read_json(folder / "rows.json")
    for number in range(40, 60):
        save(picture(number, (90, 70)), folder / f"images/{number}.png")
        rows.append(row(f"images/{number}.png", number))
    (folder / "rows.json").write_text(json.dumps(rows))
    lock_and_convert(vases, "vases", folder, "llava", None)
    after = run_filters(vases, "vases", chain, models=[model])
    figures, old = after["filters"][0]["figures"], before["filters"][0]["figures"]
    assert figures["threshold"] == old["threshold"]
    assert (figures["total_images"], figures["sample"]["of"]) == (41, 21)
    fresh = run_filters(vases, "vases", [("clip_quality", {"seed": 1})], models=[model])
    figures = fresh["filters"][0]["figures"]
    assert figures["sample"]["of"] == 41 and figures["threshold"] != old["threshold"]


def test_best_view_by_the_nearness_to_good_prompts(pictures, model):
    found = scores(pictures[:4], model)
    samples = [
        sample(n, group="g", media=[Medium(kind="image", path=file.name, sha256=str(n))])
        for n, file in enumerate(pictures[:4])
    ]
    by_sha256 = {str(n): values for n, values in enumerate(found)}
    options = {"scorer": "clip_quality", "score": "high"}
    context = context_of(best_view, scores=by_sha256, **options)
    kept = {0, 1, 2, 3} - set(rejected(best_view.judge(samples, context)))
    assert kept == {int(np.argmax([row["high"] for row in found]))}
    with pytest.raises(ConfigError, match=r"score: 'best'; clip_quality gives: score, high, low"):
        best_view.judge(samples, context_of(best_view, scores=by_sha256, score="best", **{
            "scorer": "clip_quality"}))  # fmt: skip
