"""`token_merging` in the config: where it is allowed, and which jobs read it."""

from __future__ import annotations

import pytest
from test_config import config, error, recipe

from project_root import ROOT
from shardline.config.project import Project

LLAVA = {"family": "llava", "base": "init:config/models/tiny_llava.json", "tokens.image_side": 112}
MERGING = {"stages.adapt.token_merging": {"ratio": 0.3}}
CACHED = {
    f"stages.{stage}.{key}": value
    for stage in ("sft", "adapt")
    for key, value in (("cache_features", True), ("tune.vision", None), ("train", ["demo_night"]))
}


def project(**changes) -> Project:
    return Project(config(**recipe(**LLAVA, **changes)), ROOT)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            MERGING,
            ["recipes.mine.stages.adapt.token_merging", "qwen2_vl cannot merge", "allowed: llava"],
        ),
        ({**LLAVA, "stages.adapt.token_merging": {"ratio": 0}}, ["ratio = 0", "greater than 0"]),
        ({**LLAVA, "stages.adapt.token_merging": {"ratio": 1.5}}, ["ratio = 1.5"]),
        ({**LLAVA, "stages.adapt.token_merging": {"slowfast": True}}, ["token_merging", "ratio"]),
        ({**LLAVA, "stages.adapt.token_merging": {"ratio": 1, "fast": True}}, ["fast"]),
    ],
)
def test_what_no_tower_can_do_is_refused(changes, parts):
    message = error(**recipe(**changes))
    assert all(part in message for part in parts), message


def test_only_the_stage_that_merges_has_the_option():
    plain, merging = project(), project(**MERGING)
    key, other = ("mine", "adapt"), ("mine", "sft")
    expected = {"token_merging": {"ratio": 0.3, "slowfast": False}}
    for name in ("plan", "train", "merge"):
        before, after = getattr(plain, name), getattr(merging, name)
        assert after[key] == before[key] | expected and after[other] == before[other]
    for name in ("tokenize", "predict", "score"):
        assert getattr(plain, name) == getattr(merging, name)
    assert plain.source_models.build == merging.source_models.build


def test_features_are_of_a_merging_too():
    plain, merging = project(**CACHED), project(**CACHED, **MERGING)
    (same,) = plain.features
    (first, second) = sorted(merging.features, key=lambda key: key != same)
    assert first == same and second[:2] == same[:2]
    assert merging.features[second]["token_merging"]["ratio"] == 0.3
    assert merging.model_of["features", second[2]] == plain.model_of["features", same[2]]
