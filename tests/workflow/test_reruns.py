"""What reruns after a change, and what does not, asked of real Snakemake."""

from __future__ import annotations

import base64
import copy
import re
import shutil
import subprocess

import pytest

from workflow.workspace import MINI

NOTHING = "Nothing to be done"
FUTURE = "from __future__ import annotations"
EVALUATION = {"predict_benchmark", "score_predictions", "write_report", "all"}
SCORING = {"score_predictions", "write_report", "all"}
TRAINING = {"train_stage", "merge_model", "export_adapter", *EVALUATION}
PLANNING = {"plan_stage", *TRAINING}
TOKENS = {"tokenize_shard", "write_token_manifest", *PLANNING}
PICTURES = {"draw_filter_pictures", "write_report", "all"}
FILTERS = {"decide_filters", "write_image_shard", "write_filter_manifest", *PICTURES, *TOKENS}
DATA = {"convert_dataset", "build_model", *FILTERS}


def changed(**edits):
    """The mini config with dotted changes under the recipe (and `datasets`)."""
    config = copy.deepcopy(MINI)
    config["datasets"] |= edits.pop("datasets", {})
    config["recipes"]["mini"] |= edits
    return config


def git(project, *words):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *identity, *words]
    subprocess.run(command, cwd=project.folder, check=True, capture_output=True)


def planned(project, *words) -> tuple[set[str], str]:
    run = project.dry_run(*words)
    return set(run.jobs), run.output


def test_finished_project_does_nothing(project):
    assert NOTHING in project.dry_run("all").output


def test_touching_every_source_and_switching_branches_does_nothing(project):
    for part in ("scripts", "config", "rules", "Snakefile"):
        path = project.path(part)
        for file in [path] if path.is_file() else path.rglob("*"):
            file.touch()
    assert NOTHING in project.dry_run("all").output

    try:
        git(project, "init", "--initial-branch", "main")
        git(project, "add", "scripts", "config", "rules", "Snakefile")
        git(project, "commit", "-m", "first")
        git(project, "checkout", "-b", "other")
        project.edit("scripts/shardline/plan.py", FUTURE, f"{FUTURE}\nimport json as _json")
        git(project, "commit", "-am", "second")
        git(project, "checkout", "main")
        assert NOTHING in project.dry_run("all").output
    finally:
        subprocess.run(["rm", "-rf", ".git"], cwd=project.folder, check=True)


def test_other_profiles_and_core_counts_do_nothing(project):
    assert NOTHING in project.dry_run("--cores", "1", "all").output
    for profile in ("h100", "slurm_8xh100"):
        assert NOTHING in project.dry_run("all", profile=profile).output, profile


@pytest.mark.parametrize(
    ("edits", "rules", "reason"),
    [
        ({"stages.adapt.tune.llm.lr": 0.5}, TRAINING, "options.tune.llm.lr=0.5"),
        ({"stages.adapt.steps": 2}, PLANNING, "options.steps=2"),
        ({"stages.sft.optimizer": {"betas": [0.95, 0.9]}}, TRAINING, "options.optimizer.betas="),
        ({"stages.sft.max_length": 2000}, PLANNING, "options.max_length=2000"),
        ({"seed": 9}, PLANNING, "options.seed=9"),
        ({"train": ["demo_screens%50"]}, PLANNING, "options.mixture"),
        ({"tokens.max_visual_tokens": 16}, {"build_model", *TOKENS}, "Missing output files"),
        ({"tokens.seed": 1}, {"build_model", *TOKENS}, "Missing output files"),
        ({"max_new_tokens": 3}, EVALUATION, "options.max_new_tokens=3"),
        ({"env_epoch": 1}, TOKENS, "options.env_epoch=1"),
    ],
)
def test_a_changed_parameter_reruns_its_stage_and_what_follows(project, edits, rules, reason):
    project.write_config(changed(**edits))
    found, output = planned(project)
    assert found == rules
    assert f"now: '{reason}" in output or reason in output


def test_changing_the_lora_rank_reruns_the_lora_stage_only(project):
    rank = {"stages.adapt.tune.llm": {"lora": {"rank": 3}}}
    project.write_config(changed(**rank))
    run = project.dry_run()
    assert set(run.jobs) == TRAINING
    assert run.jobs["train_stage"] == run.jobs["merge_model"] == run.jobs["predict_benchmark"] == 1
    assert "options.tune.llm.rank=3" in run.output


def test_swapped_values_count_as_changed(project):
    decay = {"stages.adapt.tune.llm": {"lr": 0.25, "weight_decay": 0.125}}
    project.write_config(changed(**decay))
    first = project.dry_run().output
    project.write_config(changed(**{"stages.adapt.tune.llm": {"lr": 0.125, "weight_decay": 0.25}}))
    second = project.dry_run().output
    assert "options.tune.llm.lr=0.25" in first and "options.tune.llm.lr=0.125" in second
    assert "options.tune.llm.weight_decay=0.25" in second


def test_changed_data_reruns_that_dataset(project):
    night = {"source_options": {"screens": 11}}
    project.write_config(changed(datasets={"demo_night": night}))
    run = project.dry_run()
    assert set(run.jobs) >= {"fetch_dataset", *DATA} - {"write_image_shard", "tokenize_shard"}
    assert run.jobs["fetch_dataset"] == 1
    assert "options.source_options.screens=11" in run.output


@pytest.mark.parametrize(
    ("module", "first", "rules"),
    [
        (
            "metrics/point_in_box.py",
            "score_predictions",
            {"score_predictions", "write_report", "all"},
        ),
        ("plan.py", "plan_stage", PLANNING),
        ("training/trainer.py", "train_stage", TRAINING),
        ("inference.py", "predict_benchmark", EVALUATION),
        ("generators/screens.py", "fetch_dataset", {"fetch_dataset", *DATA}),
        ("formats/showui.py", "convert_dataset", DATA),
        ("filters/dedup.py", "decide_filters", FILTERS),
        ("reporting/contact_sheets.py", "draw_filter_pictures", PICTURES),
        ("reporting/page.py", "write_report", {"write_report", "all"}),
    ],
)
def test_a_changed_module_reruns_the_stages_that_import_it(project, module, first, rules):
    file = f"scripts/shardline/{module}"
    with project.path(file).open("a") as source:
        source.write("\n_EDITED = 1\n")
    run = project.dry_run()
    shards = {"write_image_shard", "tokenize_shard"}
    assert rules - shards <= set(run.jobs) <= rules, run.jobs
    assert first in run.jobs
    assert f"{file}@" in run.output


def test_comments_and_docstrings_in_any_source_rerun_nothing(project):
    for file in project.path("scripts").rglob("*.py"):
        text = file.read_text()
        file.write_text(f"# A comment.\n{text}\n# Another.\n")
    assert NOTHING in project.dry_run("all").output


def test_new_modules_and_keys_rerun_nothing(project):
    for kind in ("formats", "filters", "metrics", "tasks", "families"):
        project.path(f"scripts/shardline/{kind}/brand_new.py").write_text(
            "CONTEXT = ()\nDEFAULTS = {}\n"
        )
    project.edit(
        "scripts/shardline/config/schema.py",
        "    licence: str = Field(min_length=1",
        "    brand_new: int = Field(default=3, gt=0)\n    licence: str = Field(min_length=1",
    )
    assert NOTHING in project.dry_run("all").output


def test_an_accepted_refactoring_reruns_nothing(project):
    try:
        git(project, "init")
        git(project, "add", "scripts")
        git(project, "commit", "-m", "first")
        project.edit("scripts/shardline/plan.py", FUTURE, f"{FUTURE}\nimport json as _json")
        assert "plan_stage" in project.dry_run().jobs
        command = ["python", "-m", "shardline.cli.main", "accept", "scripts/shardline/plan.py"]
        accepted = subprocess.run(
            [*command, "--why", "an unused import", "--who", "A Tester"],
            cwd=project.folder,
            env={**project.environment, "PYTHONPATH": "scripts"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert accepted.returncode == 0, accepted.stderr
        assert NOTHING in project.dry_run("all").output
        project.write_config(changed(seed=5))
        assert "plan_stage" in project.dry_run().jobs
    finally:
        subprocess.run(["rm", "-rf", ".git"], cwd=project.folder, check=True)


def test_a_deleted_output_is_made_again_and_identical_bytes_stop_there(clone):
    scores = clone.path("results/evals/mini/sft/demo_test/scores.json")
    content = scores.read_bytes()
    scores.unlink()
    run = clone.snakemake("evals")
    assert set(run.executed) - {"evals"} == {"score_predictions"}
    assert scores.read_bytes() == content
    assert NOTHING in clone.dry_run("all").output


def test_identical_bytes_stop_the_cascade_in_one_run(clone):
    """A changed converter that writes the same bytes reruns no filter, token or training job."""
    for module in ("formats/showui.py", "convert.py"):
        with clone.path(f"scripts/shardline/{module}").open("a") as source:
            source.write("\n_EDITED = 1\n")
    assert set(clone.dry_run().jobs) >= {"convert_dataset", "train_stage"}
    run = clone.snakemake("all")
    assert set(run.executed) <= {"convert_dataset", "all"}, run.executed
    assert run.executed["convert_dataset"] == 3
    assert NOTHING in clone.dry_run("all").output


def test_one_changed_shard_costs_one_shard(clone, tmp_path):
    """A label changed in the second shard writes and tokenises that shard alone."""
    (built,) = (path for path in clone.path("results/raw/models").iterdir() if path.is_dir())
    shutil.copytree(built, tmp_path / "model")
    clone.write_config(changed(base=f"folder:{tmp_path / 'model'}"))
    clone.snakemake("tokens")
    with clone.path("scripts/shardline/formats/showui.py").open("a") as source:
        source.write(
            "\n_read = read\n\n\ndef read(raw, options):\n"
            "    for row in _read(raw, options):\n"
            "        if row.index == 12:\n"
            "            row.elements[0].label += ' there'\n"
            "        yield row\n"
        )
    run = clone.snakemake("tokens")
    assert re.findall(r"write image shard (\S+ \S+)", run.output) == ["demo_screens 00001-png"]
    assert re.findall(r"tokenise (\S+ \S+)", run.output) == ["demo_screens 00001-png"]


def test_results_behind_a_link_rerun_nothing_and_changes_are_still_seen(clone, tmp_path):
    elsewhere = tmp_path / "other disk"
    clone.path("results").rename(elsewhere)
    clone.path("results").symlink_to(elsewhere)
    assert NOTHING in clone.dry_run("all").output
    clone.write_config(changed(**{"stages.adapt.steps": 2}))
    assert set(clone.dry_run().jobs) == PLANNING


def test_results_without_their_records_are_an_error(clone):
    clone.path(".snakemake").rename(clone.path("gone"))
    run = clone.dry_run("all", check=False)
    assert run.code != 0
    assert "error: results/ holds artefacts, but their records" in run.output
    assert "Traceback" not in run.output


def test_a_run_that_was_killed_before_its_first_record_goes_on(clone):
    lock = "results/raw/demo_night.lock.json"
    clone.path(".snakemake/metadata").rename(clone.path("gone"))
    mark = base64.b64encode(lock.encode()).decode()
    clone.path(f".snakemake/incomplete/{mark}").touch()
    assert clone.dry_run("all").jobs["fetch_dataset"] >= 1


def test_two_recipes_that_differ_in_learning_rate_share_data_and_tokens(project):
    config = copy.deepcopy(MINI)
    config["recipes"]["faster"] = {"extends": "mini", "stages.sft.tune.llm.lr": 0.001}
    config["build"] = ["mini", "faster"]
    project.write_config(config)
    run = project.dry_run()
    assert set(run.jobs) == PLANNING
    assert run.jobs["train_stage"] == 2
