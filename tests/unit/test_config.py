"""Config: layers, `extends`, strict keys, and errors that say where and what is allowed."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from project_root import ROOT
from shardline.config.layers import Layer, load, project_layers, read_layer
from shardline.config.project import Project, folder_digest
from shardline.config.schemas import json_schemas
from shardline.errors import ConfigError

DEFAULTS = project_layers(ROOT)
SFT = {
    "name": "sft",
    "tune": {"llm": {"full": True, "lr": 0.01}},
    "global_batch": {"samples": 4},
    "steps": 10,
}


def config(**extra):
    return load([*DEFAULTS, Layer("mine.yaml", extra)])


def error(**extra) -> str:
    with pytest.raises(ConfigError) as caught:
        Project(config(**extra), ROOT)
    return str(caught.value)


def recipe(**changes):
    return {"recipes": {"mine": {"extends": "demo", **changes}}, "build": ["mine"]}


def test_later_layers_win_and_lists_are_replaced():
    changed = config(recipes={"demo": {"seed": 7, "evaluate": []}}, build=["showui"])
    assert changed.recipes["demo"].seed == 7
    assert changed.recipes["demo"].evaluate == []
    assert changed.recipes["demo"].family == "qwen2_vl"
    assert changed.build == ["showui"]


def test_extends_takes_dotted_keys_and_finds_stages_by_name():
    changed = config(**recipe(**{"stages.adapt.tune.llm.lr": 0.5, "tokens.answer.decimals": 3}))
    base, mine = changed.recipes["demo"], changed.recipes["mine"]
    assert mine.stages[1].tune.llm.lr == 0.5
    assert mine.stages[1].tune.llm.lora == base.stages[1].tune.llm.lora
    assert mine.stages[0] == base.stages[0]
    assert mine.tokens.answer.decimals == 3


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ({"bild": []}, ["mine.yaml: bild", "unknown key", "'build'"]),
        ({"recipes": {"demo": {"sed": 1}}}, ["mine.yaml: recipes.demo.sed", "'seed'"]),
        (recipe(extends="demmo"), ["recipes.mine.extends = 'demmo'", "allowed: ", " demo,"]),
        (recipe(**{"stages.sft.steps": 0}), ["recipes.mine.stages", "= 0", "greater than 0"]),
        (recipe(**{"stages.first.steps": 1}), ["no stage 'first'", "adapt, sft"]),
        (recipe(**{"stages.sft.tune.llm": "cold"}), ["= 'cold'", "frozen", "lora"]),
        (recipe(**{"stages.sft.epochs": 1}), ["either `steps` or `epochs`"]),
        (recipe(**{"stages.adapt.init": "later"}), ["init = 'later'", "allowed: base, sft"]),
        (recipe(**{"stages.adapt.name": "sft"}), ["'sft' is taken"]),
        (recipe(**{"stages.sft.exports": ["adapter"]}), ["no LoRA module"]),
        (recipe(train=["demo_scren"]), ["no such dataset: 'demo_scren'", "such as demo_screens"]),
        (recipe(train=["demo_screens", "demo_screens%50"]), ["demo_screens stands there twice"]),
        (recipe(train=["demo_screens%many"]), ["is not `name` or `name%50` or `name#1000`"]),
        (recipe(train=["demo_screens#1.5"]), ["'demo_screens#1.5' is not"]),
        (recipe(train=["demo_screens%0"]), ["'demo_screens%0' takes nothing", "above 0"]),
        (recipe(split={"validation": "150%"}), ["'150%'", "below 100%"]),
        (recipe(split={"validation": 0.1}), ["split.validation", "0.1"]),
        (recipe(split={"validation": "5%", "by": "row"}), ["split.by = 'row'", "group"]),
        (recipe(**{"stages.sft.packing": "tight"}), ["packing = 'tight'", "flatten"]),
        (recipe(**{"stages.sft.packing": "global"}), ["packing = 'global'", "step, flatten, none"]),
        (recipe(**{"stages.sft.global_batch": {"tokens": 8192}}), ["either `samples` or `tokens`"]),
        (
            recipe(**{"stages.sft.global_batch": {"samples": None, "tokens": 99}}),
            ["at least max_length = 4096"],
        ),
        (recipe(**{"stages.sft.epoch_draws": 8}), ["`epoch_draws` goes with `epochs`"]),
        (recipe(**{"stages.sft.length_grouped": True}), ["`length_grouped` is for"]),
        (recipe(**{"stages.sft.too_long": "drop"}), ["too_long = 'drop'", "truncate_answer"]),
        (recipe(**{"stages.sft.max_reject_share": 2}), ["max_reject_share = 2"]),
        (recipe(evaluate=["demo_screens"]), ["no benchmark", "`metric`"]),
        (recipe(filters=["dedupe"]), ["filters = 'dedupe'", "allowed: ", " dedup,"]),
        (recipe(filters=[{"dedup": {"distance": 1}}]), ["unknown key 'distance'", "max_distance"]),
        (recipe(filters=[{"overlap": {"limit": "9"}}]), ["overlap.limit: '9'", "a whole number"]),
        (recipe(filters=[{"overlap": {"limit": True}}]), ["overlap.limit: True", "a whole number"]),
        (recipe(filters=[{"dedup": {"same_text": 1}}]), ["same_text: 1", "true, false"]),
        (recipe(family="gpt"), ["family = 'gpt'", "qwen2_vl"]),
        (recipe(base="hub://Qwen/Qwen2-VL-2B-Instruct"), ["base", "pattern"]),
        (recipe(base="init:config/models/none.json"), ["none.json", "no such file"]),
        ({"build": ["dmeo"]}, ["build = 'dmeo'", "allowed: ", " demo,"]),
        ({"plugins": ["no_such.py"]}, ["no_such.py: no such file"]),
    ],
)
def test_errors_name_the_key_the_value_and_what_is_allowed(extra, parts):
    message = error(**extra)
    assert all(part in message for part in parts), message


def test_error_names_the_file_that_holds_the_value(tmp_path):
    file = tmp_path / "user.yaml"
    file.write_text("recipes: {demo: {seed: -1}}\n")
    with pytest.raises(ConfigError, match=r"user\.yaml: recipes\.demo\.seed = -1"):
        load([*DEFAULTS, read_layer(file)])
    file.write_text("recipes: [\n")
    with pytest.raises(ConfigError, match=r"user\.yaml: not valid YAML"):
        read_layer(file)


def test_recipes_that_differ_in_training_share_data_and_tokens():
    extra = recipe(**{"stages.sft.tune.llm.lr": 0.001, "seed": 5})
    project = Project(config(**{**extra, "build": ["demo", "mine"]}), ROOT)
    alone = Project(config(), ROOT)
    for table in ("fetch", "convert", "decide", "tokenize"):
        assert getattr(project, table) == getattr(alone, table), table
    assert project.source_models.all == alone.source_models.all != {}
    assert set(project.train) == {(r, s) for r in ("demo", "mine") for s in ("sft", "adapt")}
    assert project.train["mine", "sft"]["tune"] != project.train["demo", "sft"]["tune"]


def test_a_stage_overrides_data_filters_and_tokens():
    changes = {
        "stages.adapt.filters": [],
        "stages.adapt.tokens": {"answer": {"decimals": 3}},
        "stages.adapt.train": ["demo_screens"],
    }
    project = Project(config(**recipe(**changes)), ROOT)
    sft, adapt = (project.stage_data["mine", stage][0] for stage in ("sft", "adapt"))
    assert (sft.dataset, adapt.dataset) == ("demo_screens", "demo_screens")
    assert project.decide["demo_screens", adapt.filtered]["filters"] == []
    assert len(project.decide["demo_screens", sft.filtered]["filters"]) == 2
    assert project.tokenize["demo_screens", adapt.tokens]["tokens"]["answer"]["decimals"] == 3


def test_a_plan_gets_what_its_stage_says_and_another_for_what_is_held_out():
    changes = {
        "train": ["demo_screens%12.5", "demo_night#1000"],
        "split": {"validation": "7.5%"},
        "stages.sft.global_batch": {"samples": None, "tokens": 65536},
        "stages.sft.too_long": "truncate_answer",
    }
    project = Project(config(**recipe(**changes)), ROOT)
    plan = project.plan["mine", "sft"]
    assert plan["mixture"] == [
        {"dataset": "demo_screens", "percent": 12.5},
        {"dataset": "demo_night", "samples": 1000},
    ]
    assert plan["split"] == {"validation": 7.5, "by": "group"}
    assert (plan["global_batch"], plan["too_long"]) == ({"tokens": 65536}, "truncate_answer")
    held = project.plan_validation["mine", "sft"]
    assert {entry["percent"] for entry in held["mixture"]} == {100.0}
    assert (held["part"], held["epochs"], held["steps"]) == ("validation", 1.0, None)
    assert not Project(config(), ROOT).plan_validation


def stages(*more, **changes):
    """A recipe of the stage SFT and others."""
    mine = {"extends": "demo", "stages": [SFT, *more], "exports": ["merged"], **changes}
    return {"recipes": {"mine": mine}, "build": ["mine"]}


MORE = {**SFT, "name": "more", "steps": 3}
EXTENDS = {
    **{key: value for key, value in MORE.items() if key != "tune"},
    "continue_from": {"stage": "sft", "step": 4},
}


def test_what_to_export_concerns_the_exports_alone():
    watched = {**SFT, "validate": {"every": 5, "data": "demo_test#4"}}
    projects = []
    for choice in ("last", "best", "step:7"):
        mine = {"extends": "demo", "stages": [{**watched, "export_from": choice}]}
        extra = {"recipes": {"mine": {**mine, "exports": ["merged"]}}, "build": ["mine"]}
        projects.append(Project(config(**extra), ROOT))
    tables = ("convert", "decide", "tokenize", "plan", "plan_validation", "train", "predict")
    for table in (*tables, "score"):
        first, *others = (getattr(project, table) for project in projects)
        assert all(other == first for other in others), table
    exports = [project.merge["mine", "sft"].get("export_from") for project in projects]
    assert exports == [None, "best", "step:7"]
    told = [project.report[("mine",)]["stages"][0] for project in projects]
    assert [stage["chosen_on"] for stage in told] == [[], ["demo_test"], []]
    lora = recipe(**{"stages.adapt.validate": {"every": 5, "data": "demo_test#4"}})
    lora["recipes"]["mine"]["stages.adapt.export_from"] = "best"
    assert Project(config(**lora), ROOT).adapter["mine", "adapt"] == {"export_from": "best"}


def test_a_stage_validates_on_a_named_dataset_or_on_what_is_held_out():
    plain = Project(config(**stages(MORE)), ROOT)
    assert "validate" not in plain.train["mine", "sft"]
    assert plain.validation_of("mine", "sft") == []

    named = {**MORE, "validate": {"every": 5, "data": "demo_test#4", "early_stop": {"patience": 2}}}
    project = Project(config(**stages(named, split={"validation": "10%"})), ROOT)
    assert project.train["mine", "more"]["validate"] == {
        "every": 5,
        "data": "demo_test#4",
        "early_stop": {"patience": 2, "min_delta": 0.0},
    }
    plan = project.plan_validation["mine", "more"]
    assert (plan["mixture"], plan["split"]) == ([{"dataset": "demo_test", "samples": 4}], None)
    assert (plan["part"], plan["epochs"], plan["steps"]) == ("validation", 1.0, None)
    (data,) = project.validation_data["mine", "more"]
    assert project.decide["demo_test", data.filtered]["filters"] == []
    assert ("demo_test", data.tokens) in project.tokenize
    assert project.validation_data["mine", "sft"] == project.stage_data["mine", "sft"]
    told = project.report[("mine",)]["stages"]
    assert [stage["chosen_on"] for stage in told] == [[], ["demo_test"]]

    held = {**MORE, "init": "sft", "validate": {"every": 5}, "export_from": "best"}
    last = {**MORE, "name": "last", "init": "more"}
    project = Project(config(**stages(held, last, split={"validation": "10%"})), ROOT)
    assert project.validation_of("mine", "more") == ["results/plans/mine/more.validation.json"]
    told = project.report[("mine",)]["stages"]
    assert [stage["chosen_on"] for stage in told] == [[], ["demo_screens"], ["demo_screens"]]


def test_a_stage_that_extends_another_has_its_model_tuning_and_optimiser():
    project = Project(config(**stages(EXTENDS)), ROOT)
    first, more = project.train["mine", "sft"], project.train["mine", "more"]
    assert more["continue_from"] == {"stage": "sft", "step": 4}
    for key in ("tune", "optimizer", "precision"):
        assert more[key] == first[key], key
    assert project.parent_of("mine", "more") == ["results/checkpoints/mine/sft/result.json"]
    assert project.named_steps("mine", "sft") == [4] and not project.named_steps("mine", "more")
    assert project.initial_model("mine", "more") == project.initial_model("mine", "sft")
    slower = {**EXTENDS, "tune": {"llm": {"full": True, "lr": 0.001}}}
    assert (
        Project(config(**stages(slower)), ROOT).train["mine", "more"]["tune"]["llm"]["lr"] == 1e-3
    )


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ({**EXTENDS, "init": "base"}, ["more.init = 'base'", "'sft'", "leave `init` out"]),
        ({**EXTENDS, "continue_from": {"stage": "later"}}, ["stage = 'later'", "no earlier stage"]),
        ({**EXTENDS, "continue_from": {"stage": "sft", "step": 11}}, ["step = 11", "10 steps"]),
        ({**EXTENDS, "precision": "fp32"}, ["precision is 'fp32'", "sft is 'bf16'", "`init: sft`"]),
        (
            {**EXTENDS, "tune": {"vision": {"full": True, "lr": 1}}},
            ["tune.llm is 'frozen', that of sft is {'full': True}"],
        ),
        ({**MORE, "validate": {"every": 5}}, ["'held_out'", "`split:"]),
        (
            {**MORE, "validate": {"every": 5, "data": "demo_screens#3"}},
            ["validate.data = 'demo_screens#3'", "sft trains on it"],
        ),
        (
            {**EXTENDS, "validate": {"every": 5, "data": "demo_test#many"}},
            ["stages.more.validate.data: 'demo_test#many' is not"],
        ),
        ({**EXTENDS, "validate": {"evry": 5}}, ["validate.evry", "did you mean 'every'?"]),
        ({**EXTENDS, "export_from": "best"}, ["`export_from: best`", "`validate`"]),
        ({**EXTENDS, "export_from": "step:9"}, ["export_from = 'step:9'", "3 steps"]),
        ({**EXTENDS, "export_from": "first"}, ["export_from = 'first'"]),
    ],
)
def test_errors_of_validation_and_checkpoints(stage, parts):
    message = error(**stages(stage))
    assert all(part in message for part in parts), message


def test_the_batch_of_a_reference_concerns_the_report_alone():
    projects = [
        Project(config(**recipe(**{"stages.sft.global_batch": {"reference_samples": batch}})), ROOT)
        for batch in (None, 4, 64)
    ]
    for table in ("convert", "decide", "tokenize", "plan", "train", "merge", "predict", "score"):
        first, *others = (getattr(project, table) for project in projects)
        assert all(other == first for other in others), table
    stages = [project.report[("mine",)]["stages"] for project in projects]
    assert [stage[0]["reference_samples"] for stage in stages] == [None, 4, 64]


def test_appending_a_dataset_keeps_the_variants_of_earlier_ones():
    before = Project(config(), ROOT).stage_data["demo", "sft"][0]
    longer = Project(config(recipes={"demo": {"train": ["demo_screens", "demo_night"]}}), ROOT)
    assert longer.stage_data["demo", "sft"][0].filtered == before.filtered


def test_a_plugin_reaches_only_the_jobs_that_use_it(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "class Rows:\n    read = None\n"
        "shardline_formats = {'mine': Rows}\n"
        "shardline_metrics = {'my_metric': Rows}\n"
    )
    dataset = {"source": "generate:screens", "format": "mine", "licence": "cc0-1.0"}
    extra = recipe(evaluate=["bench"])
    extra |= {
        "plugins": [str(plugin)],
        "datasets": {"bench": {**dataset, "metric": "my_metric"}},
    }
    project = Project(config(**extra), ROOT)
    assert project.convert[("bench",)]["plugins"] == [str(plugin)]
    assert project.convert[("demo_screens",)]["plugins"] == []
    assert project.score["mine", "base", "bench"]["plugins"] == [str(plugin)]
    assert project.predict["mine", "base", "bench"]["plugins"] == []
    assert project.train["mine", "sft"]["plugins"] == []


def test_folder_digest_sees_names_and_sizes(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    first = folder_digest(tmp_path)
    assert folder_digest(tmp_path) == first
    (tmp_path / "a.txt").write_text("four")
    second = folder_digest(tmp_path)
    (tmp_path / "b.txt").write_text("")
    assert len({first, second, folder_digest(tmp_path), folder_digest(tmp_path / "none")}) == 4


def with_tokens(tokens, family="qwen2_vl"):
    mine = {
        "family": family,
        "base": "folder:/models/base",
        "train": ["demo_screens"],
        "stages": [SFT],
        "tokens": tokens,
    }
    return {"recipes": {"mine": mine}, "build": ["mine"]}


def tokens(**changes):
    return Project(config(**with_tokens(changes)), ROOT).tokenize.popitem()[1]["tokens"]


def test_pixels_and_rates_are_other_spellings():
    made = tokens(
        min_pixels=3136,
        max_pixels=1003520,
        video={"fps": 0.5, "min_pixels": 200704, "max_pixels": 1304576},
    )
    assert (made["min_visual_tokens"], made["max_visual_tokens"]) == (4, 1280)
    assert made["video"] == {
        "interval": 2.0,
        "min_frames": 4,
        "max_frames": 8,
        "min_visual_tokens": 256,
        "max_visual_tokens": 1664,
    }
    assert made == tokens(
        max_visual_tokens=1280, video={"min_visual_tokens": 256, "max_visual_tokens": 1664}
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"max_pixels": 500000}, ["multiple of 784", "such as 500192"]),
        ({"max_pixels": 784, "max_visual_tokens": 4}, ["either `max_pixels` or"]),
        ({"max_pixels": "many"}, ["max_pixels = 'many'", "multiple of 784"]),
        ({"min_visual_tokens": 9, "max_visual_tokens": 8}, ["(9) is above max_visual_tokens (8)"]),
        ({"video": {"min_frames": 9}}, ["tokens.video", "min_frames (9) is above max_frames (8)"]),
        ({"video": {"fps": 1, "interval": 2}}, ["either `interval` or `fps`"]),
        ({"video": {"fps": 0}}, ["fps = 0", "a number above 0"]),
        ({"video": {"max_frames": 768}}, ["max_frames (768) times", "above 228261"]),
        ({"loss": "prompts"}, ["tokens.loss = 'prompts'", "'answers' or 'all'"]),
        ({"prompt": []}, ["prompt is an empty list"]),
        ({"variants": 3}, ["variants: 3 would make equal samples"]),
        ({"crop": {"min": 2}}, ["tokens.crop", "min (2.0) is above max (1.5)"]),
        ({"answer": {"style": "click", "target": "box"}}, ["style: click names a point"]),
        ({"task": "chat", "crop": {}}, ["tokens.crop: the task chat takes its texts as they are"]),
        ({"image_side": 100}, ["tokens.image_side = 100", "multiple of 14"]),
    ],
)
def test_token_options_that_make_no_sense(changes, parts):
    message = error(**with_tokens(changes))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"style": "tags"}, "tokens.answer.style = 'tags': not with family llava; allowed: list, "),
        ({"frame": "pixel"}, "tokens.answer.frame = 'pixel': not with family llava; allowed: unit"),
    ],
)
def test_answers_that_a_family_cannot_write(answer, message):
    assert message in error(**with_tokens({"answer": answer}, "llava"))


def test_json_schemas_for_editors_are_current():
    for name, schema in json_schemas().items():
        file = ROOT / "config" / "schemas" / f"{name}.json"
        assert json.loads(file.read_text()) == schema, f"run `make schemas`: {file} is out of date"


def test_layers_are_not_changed_by_loading():
    before = copy.deepcopy([layer.data for layer in DEFAULTS])
    config(**recipe(**{"stages.sft.steps": 3}))
    assert [layer.data for layer in DEFAULTS] == before


def test_yaml_numbers_without_a_point_still_count(tmp_path):
    file = tmp_path / "user.yaml"
    file.write_text(yaml.safe_dump({"recipes": {"demo": {"stages": [SFT]}}}))
    file.write_text(file.read_text().replace("lr: 0.01", "lr: 1e-4"))
    assert load([*DEFAULTS, read_layer(file)]).recipes["demo"].stages[0].tune.llm.lr == 1e-4
