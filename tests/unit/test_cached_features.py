"""`cache_features` in the config: when it is allowed, what it computes, what refers to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_config import config, error, recipe

from project_root import ROOT
from shardline import garbage, paths
from shardline.cli.main import main
from shardline.config.project import Project
from shardline.errors import UserError
from shardline.files import file_entry, read_json, sha256_file, write_json

CACHED = {"stages.sft.cache_features": True, "stages.sft.tune.vision": None}
FROZEN = {**CACHED, "stages.sft.tune.projector": None}


def project(**changes) -> Project:
    return Project(config(**recipe(**changes)), ROOT)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"stages.sft.cache_features": True},
            ["recipes.mine.stages.sft.cache_features = true", "the stage tunes", "frozen"],
        ),
        (
            {"stages.adapt.cache_features": True},
            ["stages.adapt.cache_features = true", "starts from the stage 'sft', which tunes"],
        ),
        (
            {**CACHED, "tokens.crop": {"min": 0.5}},
            ["stages.sft.cache_features = true", "tokens.crop", "no crop"],
        ),
        ({"stages.sft.cache_features": "often"}, ["cache_features = 'often'"]),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(changes, parts):
    message = error(**recipe(**changes))
    assert all(part in message for part in parts), message


def test_what_a_stage_validates_on_has_features_too():
    watching = {"stages.sft.validate": {"every": 5, "data": "demo_test#4"}}
    found = project(**CACHED, **watching)
    assert {dataset for dataset, *_ in found.features} >= {"demo_screens", "demo_test"}
    (one,) = found.validation_data["mine", "sft"]
    assert one.features == found.stage_data["mine", "sft"][0].features
    assert len(found.features_of("mine", "sft")) == 1 + len(found.stage_data["mine", "sft"])


def test_the_point_is_behind_all_that_stays_as_it_is():
    (tower,) = project(**CACHED).features
    (projected,) = project(**FROZEN).features
    assert tower[2].startswith("tower-") and projected[2].startswith("projected-")
    later = {"stages.adapt.cache_features": True, "stages.adapt.precision": "fp32"}
    adapt = project(**CACHED, **later)
    assert [key[2] for key in adapt.features if key[0] == "demo_night"] == [tower[2]]
    assert adapt.train["mine", "adapt"]["features"] == "tower"
    assert adapt.train["mine", "sft"]["features"] == "tower"
    both = project(**FROZEN, **later)
    assert {key[2] for key in both.features} == {projected[2]}
    assert both.features_of("mine", "adapt") == [
        paths.features(data.dataset, data.tokens, projected[2])
        for data in both.stage_data["mine", "adapt"]
    ]


def test_without_the_key_nothing_is_computed_and_no_option_is_new():
    plain = project()
    assert plain.features == {}
    assert plain.features_of("mine", "sft") == []
    assert all("features" not in options for options in plain.train.values())


def test_features_are_of_a_model_and_a_precision_and_of_nothing_else():
    name = next(iter(project(**FROZEN).features))[2]
    same = {"stages.sft.tune.llm.lr": 0.5, "stages.sft.steps": 7, "seed": 3}
    assert next(iter(project(**FROZEN, **same).features))[2] == name
    assert project(**FROZEN, **same).features == project(**FROZEN).features
    finer = project(**FROZEN, **{"tokens.max_visual_tokens": 36})
    assert next(iter(finer.features))[1] != next(iter(project(**FROZEN).features))[1]
    for changes in (
        {"stages.sft.precision": "bf16"},
        {"base": "folder:somewhere"},
        {"stages.sft.init": "folder:elsewhere"},
    ):
        other = project(**{**FROZEN, **changes})
        assert next(iter(other.features))[2] != name, changes
    started = project(**{**FROZEN, "stages.sft.init": "folder:elsewhere"})
    ((_, _, features),) = started.features
    assert started.model_of["features", features].startswith("elsewhere-")


def made(dataset: str, variant: str, name: str) -> Path:
    """Made-up features in ``results``."""
    manifest = Path(paths.features(dataset, variant, name))
    manifest.parent.mkdir(parents=True)
    tar, index = (manifest.with_name(f"shard-00000-png.{end}") for end in ("tar", "index.parquet"))
    tar.write_bytes(b"x" * 3000)
    index.write_bytes(b"y" * 100)
    shard = {**file_entry(tar), "index": index.name, "index_sha256": sha256_file(index)}
    content = {"stage": "features", "shards": [{**shard, "device": "NVIDIA A100"}]}
    write_json(manifest, content)
    return manifest


def waste(capsys, *words: str) -> set[str]:
    main(["gc", "--json", *words])
    return {row["path"] for row in json.loads(capsys.readouterr().out)["waste"]}


def test_features_that_no_recipe_trains_on_can_go(small_project, capsys):
    from shardline.cli.project import open_recipes

    Path("mine.yaml").write_text(
        "recipes: {third: {extends: small, stages.sft.cache_features: true}}\n"
    )
    third = open_recipes([Path("mine.yaml")])
    ((dataset, variant, name),) = third.features
    kept = made(dataset, variant, name)
    gone = made(dataset, variant, "tower-01234567")
    assert waste(capsys) == {str(kept.parent), str(gone.parent)}
    assert waste(capsys, "--configfile", "mine.yaml") == {str(gone.parent)}
    assert garbage.current_key(third, "third", "sft") is None  # it has no plan


def test_features_are_verified_like_other_shards(small_project):
    (variant,) = Path("results/tokens/screens").iterdir()
    manifest = made("screens", variant.name, "tower-01234567")
    main(["verify"])
    index = manifest.with_name("shard-00000-png.index.parquet")
    index.write_bytes(b"z" * 100)
    with pytest.raises(UserError, match=str(index)):
        main(["verify"])


def test_the_lineage_of_a_model_names_its_features(small_project, capsys):
    words = ["lineage", "--recipe", "small", "--stage", "sft"]
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["features"] == []
    manifest = made("screens", "some", "tower-01234567")
    result = Path(paths.result("small", "sft"))
    used = {"features_sha256": {str(manifest): sha256_file(manifest)}}
    write_json(result, read_json(result) | used)
    main(words)
    text = capsys.readouterr().out
    assert f"{manifest}  sha256 {sha256_file(manifest)}  NVIDIA A100" in text
    write_json(manifest, read_json(manifest) | {"rows": 1})
    with pytest.raises(UserError, match=r"not the features that .*sft/result\.json was trained"):
        main(words)
