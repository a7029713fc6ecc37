"""Tracked parameters: one entry an option and a code file, so that reasons name what changed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from project_root import ROOT
from shardline import paths
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.dag import Tracked, Unused, code, flatten, modules


def project(**extra) -> Project:
    return Project(load([*project_layers(ROOT), Layer("mine.yaml", extra)]), ROOT)


def test_flatten_names_every_leaf():
    assert flatten({"b": {"x": 1, "a": [1, 2]}, "a": [{"n": None}, {"n": "é"}]}, "o") == [
        *("o.a.0.n=null", 'o.a.1.n="é"', "o.b.a=[1, 2]", "o.b.x=1"),
    ]


def test_swapped_values_and_types_change_the_set():
    def entries(options):
        return set(flatten(options, "o"))

    assert entries({"lr": 1, "wd": 2}) != entries({"lr": 2, "wd": 1})
    assert entries({"steps": 1}) != entries({"steps": "1"})
    assert entries({"betas": [0.9, 0.95]}) != entries({"betas": [0.95, 0.9]})


def test_every_entry_of_a_job_fills_one_slot():
    table = project().train
    tracked = Tracked("plan_stage", table, "recipe", "stage")
    for recipe, stage in table:
        wildcards = SimpleNamespace(recipe=recipe, stage=stage)
        values = [slot(wildcards) for slot in tracked.params]
        entries = [value for value in values if not isinstance(value, Unused)]
        options = table[recipe, stage]
        assert entries == flatten(options, "options") + code("plan_stage", options)


def test_constraints_allow_exactly_the_table():
    tracked = Tracked("plan_stage", {("a", "x"): {}, ("b", "y"): {}}, "recipe", "stage")
    assert tracked.constraints == ["a|b", "x|y"]
    assert Tracked("plan_stage", {}, "model").constraints == ["(?!)"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "showui"}, ["formats/showui.py"]),
        (
            {"family": "qwen2_vl", "task": "grounding"},
            ["families/qwen2_vl.py", "tasks/grounding.py"],
        ),
        (
            {"filters": [{"name": "dedup"}, {"name": "overlap"}]},
            ["filters/dedup.py", "filters/overlap.py"],
        ),
        ({"source": "generate:screens"}, ["sources/generate.py", "generators/screens.py"]),
        ({"source": "hub://a/b@c"}, ["sources/hub.py"]),
        ({"source": "folder:/data"}, ["sources/folder.py"]),
        ({"metric": "point_in_box"}, ["metrics/point_in_box.py"]),
    ],
)
def test_registry_modules_that_options_name(options, expected):
    names = [str(file).split("shardline/")[-1] for file in modules(options)]
    assert names == expected


def test_code_of_one_format_is_not_in_the_jobs_of_another():
    showui, screenspot = (
        {entry.split("@")[0] for entry in code("convert_dataset", {"format": name})}
        for name in ("showui", "screenspot")
    )
    assert "scripts/shardline/formats/showui.py" in showui - screenspot
    assert "scripts/shardline/formats/screenspot.py" in screenspot - showui
    assert not any("config/" in name for name in showui | screenspot)


def test_options_of_a_stage_hold_nothing_of_another():
    before, after = (
        project(),
        project(recipes={"demo": {"max_new_tokens": 99, "exports": ["merged"]}}),
    )
    for table in ("fetch", "convert", "decide", "tokenize", "plan", "train", "merge", "score"):
        assert getattr(before, table) == getattr(after, table), table
    assert before.predict != after.predict


def test_paths_follow_the_contract():
    assert paths.filtered("d", "f") == "results/filtered/d/f/manifest.json"
    assert paths.result("r", "s") == "results/checkpoints/r/s/result.json"
    assert paths.model_of_lock(paths.export("r", "s", "merged")) == "results/models/r/s/merged"
    assert paths.model_of_lock(paths.model_lock("m")) == paths.model_folder("m")
