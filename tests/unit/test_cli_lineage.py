"""`shardline lineage`: from a step, a model, an item back to files, sources and licences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardline import paths
from shardline.cli.main import main
from shardline.errors import UserError
from shardline.files import read_json, sha256_file, write_json
from shardline.plan_file import read_plan

ITEM = "held_out:screenspot_web_v2.json#4#0"


def ask(capsys, *words: str):
    main(["lineage", "--recipe", "small", "--json", *words])
    return json.loads(capsys.readouterr().out)


def test_a_step_leads_to_the_files_on_the_disk(small_project, capsys):
    found = ask(capsys, "--stage", "sft", "--step", "2")
    assert len(found["samples"]) == 4
    for sample in found["samples"]:
        annotation, image = sample["files"]
        index = int(sample["row"].partition("#")[2])
        assert sample["row"] == f"metadata/hf_train.json#{index}"
        assert image["path"] == f"results/raw/screens/images/{index}.png"
        record = read_json(Path(annotation["path"]))[index]
        assert [element["instruction"] for element in record["element"]] == sample["labels"]
        for file in (annotation, image):
            assert sha256_file(Path(file["path"])) == file["sha256"]
    (source,) = found["sources"]
    assert source["source"] == "folder:data/screens"
    assert source["licence"] == "cc0-1.0"


def test_all_steps_together_are_the_plan(small_project, capsys):
    plan = Path(paths.plan("small", "sft"))
    steps = read_plan(plan, plan.with_suffix(".parquet")).steps
    traced = [
        sample
        for step in range(1, steps + 1)
        for sample in ask(capsys, "--stage", "sft", "--step", str(step))["samples"]
    ]
    assert len(traced) == read_json(plan)["samples"]
    assert sum(sample["tokens"] for sample in traced) == read_json(plan)["tokens"]
    assert len({sample["id"] for sample in traced}) == read_json(plan)["distinct_samples"]


@pytest.mark.parametrize("step", ["0", "6", "-1"])
def test_a_step_that_is_not_there_names_those_that_are(small_project, step):
    with pytest.raises(UserError, match=rf"has steps 1 to 5, not {step}"):
        main(["lineage", "--recipe", "small", "--stage", "sft", "--step", step])


def test_a_model_leads_through_its_stages_to_the_base(small_project, capsys):
    found = ask(capsys, "--stage", "adapt")
    start = found["initialised_from"]
    assert (start["kind"], start["stage"]) == ("stage", "sft")
    base = start["initialised_from"]
    assert base["kind"] == "model"
    assert base["sources"][0]["source"] == "folder:data/base"
    assert base["sources"][0]["licence"] == "apache-2.0"
    for model in (found, start):
        assert [source["name"] for source in model["sources"]] == ["screens"]
        for shard in model["token_shards"]:
            assert sha256_file(Path("results") / shard["path"]) == shard["sha256"]


def test_a_model_that_another_plan_made_is_not_explained_by_this_one(small_project):
    plan = Path(paths.plan("small", "sft"))
    write_json(plan, read_json(plan) | {"seed": 99})
    with pytest.raises(UserError, match=r"not the plan that .*sft/result.json was trained with"):
        main(["lineage", "--recipe", "small", "--stage", "adapt"])


def test_an_item_leads_to_its_screen_and_all_answers(small_project, capsys):
    found = ask(capsys, "--item", ITEM)
    assert [answer["model"] for answer in found["answers"]] == ["base", "sft", "adapt"]
    assert [answer["hit"] for answer in found["answers"]] == [False, True, True]
    (sample,) = found["samples"]
    assert sample["row"] == "screenspot_web_v2.json#4"
    image = sample["files"][1]
    assert image["path"] == "results/raw/held_out/screenspotv2_image/4.png"
    assert sha256_file(Path(image["path"])) == image["sha256"]
    assert found["sources"][0]["licence"] == "mit"
    assert found["target"]["label"] == sample["labels"][0]


@pytest.mark.parametrize("item", ["nothing", "held_out:screenspot_web_v2.json#4#1", "x#0"])
def test_an_item_that_is_not_there(small_project, item):
    with pytest.raises(UserError, match="has no item"):
        main(["lineage", "--recipe", "small", "--item", item])


def test_raw_data_that_changed_since_conversion_is_an_error(small_project):
    lock = Path(paths.lock("held_out"))
    listing = lock.with_name("held_out.files.tsv")
    text = listing.read_text().splitlines()
    text[-1] = text[-1][:-1] + ("0" if text[-1][-1] != "0" else "1")
    listing.write_text("\n".join(text) + "\n")
    write_json(lock, read_json(lock) | {"sha256": sha256_file(listing)})
    path = text[-1].split("\t")[0]
    item = ITEM.replace("#4#", f"#{Path(path).stem}#")
    with pytest.raises(UserError, match="converted from another results/raw/held_out"):
        main(["lineage", "--recipe", "small", "--item", item])


@pytest.mark.parametrize(
    "words", [[], ["--stage", "sft", "--item", ITEM], ["--item", ITEM, "--benchmark", "screens"]]
)
def test_options_that_do_not_go_together(small_project, words):
    with pytest.raises(UserError):
        main(["lineage", "--recipe", "small", *words])


def test_the_text_has_no_control_characters_from_data(small_project, capsys):
    manifest = Path(paths.scores("small", "sft", "held_out")).with_name("items.jsonl")
    manifest.write_text(manifest.read_text().replace('[0.5, 0.5]"', '\\u001b[31mred"', 5))
    main(["lineage", "--recipe", "small", "--item", ITEM])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "sha256" in text


@pytest.mark.parametrize("words", [["--stage", "adapt"], ["--stage", "sft", "--step", "1"]])
def test_the_text_names_licences_and_locks(small_project, words, capsys):
    main(["lineage", "--recipe", "small", *words])
    text = capsys.readouterr().out
    assert "cc0-1.0" in text
    assert "results/raw/screens.lock.json" in text
