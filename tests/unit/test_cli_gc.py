"""`shardline gc`: what goes, and above all what does not."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardline import garbage, paths
from shardline.cli.main import main
from shardline.errors import UserError
from shardline.files import read_json, write_json

DAY = 86_400


def listed(capsys, *words: str) -> dict[str, str]:
    main(["gc", "--json", *words])
    return {row["path"]: row["why"] for row in json.loads(capsys.readouterr().out)["waste"]}


def work(stage: str, key: str) -> Path:
    folder = Path(f"results/checkpoints/small/{stage}/work/{key}/checkpoint-3")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return folder.parent


def variant(kind: str, name: str) -> Path:
    folder = Path(f"results/{kind}/screens/{name}")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "shard-00000-png.tar").write_bytes(b"x" * 5000)
    return folder


def temporary(folder: str, pid: int, age: float = DAY) -> Path:
    file = Path(folder) / f".manifest.json.{pid}.tmp"
    file.write_bytes(b"half")
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def snapshot() -> dict[str, int]:
    return {str(file): file.lstat().st_size for file in Path("results").rglob("*")}


def test_a_finished_project_has_no_waste(small_project, capsys):
    before = snapshot()
    main(["gc", "--remove"])
    assert capsys.readouterr().out == "nothing to remove\n"
    assert snapshot() == before


def test_waste_is_listed_with_sizes_and_stays(small_project, capsys, dead_pid):
    old = work("sft", "0123456789ab")
    filtered, tokens = variant("filtered", "gone-1"), variant("tokens", "gone-2")
    half = temporary("results/converted/screens", dead_pid)
    before = snapshot()
    assert set(listed(capsys)) == {str(old), str(filtered), str(tokens), str(half)}
    main(["gc"])
    text = capsys.readouterr().out
    assert "11.0 kB could be freed: shardline gc --remove" in text
    assert "a training of small/sft with other settings" in text
    assert snapshot() == before


def test_scores_and_classifiers_that_no_recipe_names_can_go(small_project, capsys):
    scores = variant("scores", "clip_quality-0123abcd")
    classifier = Path("results/classifiers/classifier-0123abcd")
    classifier.mkdir(parents=True)
    (classifier / "model.safetensors").write_bytes(bytes(100))
    manifest = classifier.with_suffix(".json")
    manifest.write_text("{}")
    assert set(listed(capsys)) == {str(scores), str(classifier), str(manifest)}


def test_remove_removes_that_and_nothing_else(small_project, capsys, dead_pid):
    before = snapshot()
    work("sft", "0123456789ab")
    variant("filtered", "gone-1")
    temporary("results/raw", dead_pid)
    main(["gc", "--remove"])
    assert "removed 3 things" in capsys.readouterr().out
    assert snapshot() == before


def test_variants_of_recipes_that_are_not_built_are_kept(small_project, capsys):
    Path("mine.yaml").write_text(
        "recipes: {third: {extends: small, filters: [], tokens.max_visual_tokens: 32}}\n"
    )
    from shardline.cli.project import open_recipes

    project = open_recipes([Path("mine.yaml")])
    wanted = {key[1] for key in project.decide} | {key[1] for key in project.tokenize}
    have = {folder.name for folder in Path("results").glob("*/screens/*")}
    made = [
        variant(kind, name)
        for kind, keys in (("filtered", project.decide), ("tokens", project.tokenize))
        for _, name in keys
        if name not in have
    ]
    assert made
    assert {folder.name for folder in made} < wanted
    assert set(listed(capsys)) == {str(folder) for folder in made}
    assert listed(capsys, "--configfile", "mine.yaml") == {}


def test_what_a_recipe_outside_this_config_planned_with_is_left_alone(small_project, capsys):
    tokens = variant("tokens", "theirs")
    plan = {"shards": [{"path": "tokens/screens/theirs/shard-00000-png.tar"}]}
    write_json(Path("results/plans/theirs/sft.json"), plan)
    main(["gc", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["waste"] == []
    assert "'theirs'" in found["notes"][0]
    assert tokens.is_dir()


def test_the_work_of_the_config_is_kept_though_the_result_is_another(small_project, capsys):
    current = small_project.key("sft")
    result = Path(paths.result("small", "sft"))
    write_json(result, read_json(result) | {"key": "aaaaaaaaaaaa"})
    kept = work("sft", "aaaaaaaaaaaa")
    old = work("sft", "bbbbbbbbbbbb")
    assert current != kept.name
    assert set(listed(capsys)) == {str(old)}


def test_a_changed_learning_rate_makes_only_unfinished_old_work_waste(small_project, capsys):
    recipe = Path("config/recipes/small.yaml")
    recipe.write_text(recipe.read_text().replace("lr: 1.0e-3", "lr: 2.0e-3"))
    assert listed(capsys) == {}, "the result still refers to the old work"
    Path(paths.result("small", "sft")).unlink()
    assert len(listed(capsys)) == 1


def test_a_living_trainings_folder_is_kept(small_project, capsys):
    folder = work("sft", "0123456789ab")
    with open(folder / "lease", "w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        assert listed(capsys) == {}
    assert set(listed(capsys)) == {str(folder)}


def test_temporary_files_of_the_living_and_the_young_are_kept(small_project, capsys, dead_pid):
    temporary("results/converted/screens", os.getpid())
    young = temporary("results/plans/small", dead_pid, age=60)
    assert listed(capsys) == {}
    os.utime(young, (time.time() - 2 * garbage.QUIET_SECONDS,) * 2)
    assert set(listed(capsys)) == {str(young)}


def test_raw_data_is_never_looked_at(small_project, capsys, dead_pid):
    temporary("data/screens/images", dead_pid)
    inside = Path("results/raw/fetched")
    inside.mkdir()
    temporary("results/raw/fetched", dead_pid)
    assert listed(capsys) == {}


def test_a_folder_that_leads_elsewhere_is_not_emptied(small_project, capsys, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("!")
    Path("results/tokens/screens/linked").symlink_to(outside)
    main(["gc", "--remove"])
    assert (outside / "precious").is_file()
    assert not Path("results/tokens/screens/linked").is_symlink()


def test_no_removal_beside_a_running_snakemake(small_project, monkeypatch):
    monkeypatch.setattr("shardline.controller.other_controllers", lambda: [4242])
    folder = variant("tokens", "gone")
    with pytest.raises(UserError, match="process 4242"):
        main(["gc", "--remove"])
    assert folder.is_dir()
    main(["gc"])
