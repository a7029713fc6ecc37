"""Delivery to real MLflow stores: complete, nothing twice, whatever was killed or lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deliver_runs
import results_tree
from data_tree import BENCHMARK, TRAIN
from delivered import Seen, deliver, write_the_report
from results_tree import ResultsTree, journal_rows
from shardline.files import canonical_json, read_json, sha256_file, write_json
from shardline.provenance import LOCK
from shardline.tracking import delivery as delivery_module
from shardline.tracking.follow import deliver_once, follow
from shardline.tracking.state import pending, state_file

PROGRAM = deliver_runs.__file__


def test_a_recipe_becomes_one_parent_with_a_run_a_stage(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    (parent,) = seen.parents
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    summary = read_json(tree.results / "reports/demo/summary.json")
    scores = summary["scores"][BENCHMARK]
    for model in ("base", "sft", "adapt"):
        for field in ("accuracy", "low", "high", "n"):
            assert parent.data.metrics[f"score/{BENCHMARK}/{model}/{field}"] == scores[model][field]
    assert seen.artefacts(parent) == {
        "report/index.html",
        "report/summary.json",
        "report/MODEL_CARD.md",
        "config/recipe.yaml",
    }
    run = seen.stages["adapt0000"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.start_time == int(1.7e12 + 500)
    assert run.info.end_time == int(1.7e12 + 500 * 40)
    assert run.data.metrics[f"score/{BENCHMARK}/accuracy"] == scores["adapt"]["accuracy"]
    assert run.data.params["tune.llm.lr"] == "0.004"
    assert run.data.params["plan.parquet_sha256"] == tree.plan("adapt")["parquet_sha256"]
    lock = read_json(tree.results / f"raw/{TRAIN}.lock.json")
    assert run.data.params[f"lock.{TRAIN}"] == lock["sha256"]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == TRAIN
    assert lock["sha256"].startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.source)["uri"] == "generate:screens"
    assert seen.artefacts(run) == {
        "config/run.json",
        "plan/adapt.json",
        "adapter/config.json",
        "adapter/model.safetensors",
        f"scores/{BENCHMARK}/scores.json",
    }
    history = seen.client.get_metric_history(run.info.run_id, "loss")
    rows = journal_rows(40, 4e-3, 1.7e9, seed=len("adapt"))
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (row["step"], int(row["time"] * 1000), row["metrics"]["loss"]) for row in rows
    ]


def test_the_merged_model_of_the_last_stage_is_the_candidate(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    version = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert version.source == str((tree.results / "models/demo/adapt/merged").absolute())
    assert version.run_id == seen.stages["adapt0000"].info.run_id
    score = read_json(tree.results / f"evals/demo/adapt/{BENCHMARK}/scores.json")["accuracy"]
    assert version.tags[f"shardline.score.{BENCHMARK}"] == f"{score:.4f}"
    assert version.current_stage in ("None", None)


def test_validation_what_it_chose_and_the_run_that_is_extended(tree: ResultsTree, uri: str) -> None:
    """A resume cuts the journal back after a validation: its step is there once."""
    options = results_tree.options()
    options["stages"][1]["chosen_on"] = [BENCHMARK]
    folder = tree.work("adapt")
    run = read_json(folder / "run.json")
    run["validation"] = {"datasets": [BENCHMARK], "held_out": False}
    run["continues"] = {"stage": "sft", "key": "sft0000", "step": 40}
    write_json(folder / "run.json", run)
    journal = folder / "metrics.jsonl"
    rows = journal_rows(40, 4e-3, 1.8e9)
    for number, step in enumerate((10, 20)):
        metrics = {"validation/loss": 0.5 - 0.1 * number}
        rows.insert(step + number, {"step": step, "time": 1.8e9 + step, "metrics": metrics})
    for end in (23, 12, len(rows)):
        journal.write_text("".join(canonical_json(row) + "\n" for row in rows[:end]))
        deliver(tree, uri)
    write_the_report(tree, options)
    deliver(tree, uri)
    seen = Seen(uri)
    run = seen.stages["adapt0000"]
    history = seen.client.get_metric_history(run.info.run_id, "validation/loss")
    assert [(m.step, m.value) for m in history] == [(10, 0.5), (20, 0.4)]
    tags = run.data.tags
    assert tags["shardline.selected_on_test"] == BENCHMARK
    assert tags["shardline.continues"] == "sft/sft0000 step 40"
    assert tags["shardline.continues_run"] == seen.stages["sft0000"].info.run_id
    assert "shardline.selected_on_test" not in seen.stages["sft0000"].data.tags
    contexts = {entry.dataset.name: entry.tags[0].value for entry in run.inputs.dataset_inputs}
    assert contexts == {TRAIN: "training", BENCHMARK: "validation"}
    version = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert version.tags["shardline.selected_on_test"] == BENCHMARK


def test_nothing_is_delivered_twice(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    state = state_file(tree.results, uri)
    recorded = read_json(state)
    assert not pending(tree.results, uri, "shardline")
    for path in sorted(tree.results.rglob("*.json*")):
        os.utime(path)
    assert pending(tree.results, uri, "shardline")
    deliver(tree, uri)
    assert read_json(state)["runs"] == recorded["runs"]
    state.unlink()
    deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    assert len(seen.client.search_model_versions("name = 'shardline-demo'")) == 1


@pytest.mark.slow
def test_a_lost_store_is_filled_again(tree: ResultsTree, uri: str, empty_database: Path) -> None:
    write_the_report(tree)
    command = [sys.executable, PROGRAM, f"--results={tree.results}", f"--uri={uri}"]
    for _ in range(2):
        subprocess.run(command, check=True)
        assert not pending(tree.results, uri, "shardline")
        (tree.results / "mlflow.db").unlink()
        assert pending(tree.results, uri, "shardline")
    shutil.copy(empty_database, tree.results / "mlflow.db")
    os.utime(tree.results / "reports/demo/index.html")
    deliver(tree, uri)
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


def test_a_growing_and_cut_back_journal_keeps_each_step_once(tree: ResultsTree, uri: str) -> None:
    journal = tree.work("adapt") / "metrics.jsonl"
    rows = journal_rows(40, 4e-3, 1.7e9)
    later = rows[:10] + journal_rows(40, 4e-3, 1.8e9)[10:]
    (tree.results / "checkpoints/demo/adapt/result.json").unlink()
    for content in (rows[:7], rows[:25], later[:12], later):
        journal.write_text("".join(canonical_json(row) + "\n" for row in content))
        deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    assert seen.stages["adapt0000"].info.status == "RUNNING"
    assert seen.stages["sft0000"].info.status == "FINISHED"


def test_a_changed_key_opens_a_run_that_supersedes_the_old(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    old_model = Seen(uri).client.get_model_version_by_alias("shardline-demo", "candidate")
    tree.write_training("adapt", key="adapt1111", kind="lora", lr=1e-3, start=1.71e9)
    deliver(tree, uri)
    seen = Seen(uri)
    old, new = seen.stages["adapt0000"], seen.stages["adapt1111"]
    assert new.data.tags["shardline.supersedes"] == old.info.run_id
    assert old.data.tags["shardline.superseded_by"] == new.info.run_id
    assert "shardline.superseded_by" not in seen.stages["sft0000"].data.tags
    assert not [name for name in new.data.metrics if name.startswith("score/")]
    assert seen.parents[0].info.status == "RUNNING"

    tree.write_result("adapt", key="adapt1111", kind="lora")
    deliver(tree, uri)
    half_way = Seen(uri).stages["adapt1111"]
    assert half_way.info.status == "FINISHED"
    assert not [name for name in half_way.data.metrics if name.startswith("score/")]

    tree.write_scores("adapt", 0.5)
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    old, new = seen.stages["adapt0000"], seen.stages["adapt1111"]
    name = f"score/{BENCHMARK}/accuracy"
    scores = read_json(tree.results / f"evals/demo/adapt/{BENCHMARK}/scores.json")
    assert new.data.metrics[name] == scores["accuracy"] != old.data.metrics[name]
    assert seen.parents[0].data.metrics[f"score/{BENCHMARK}/adapt/accuracy"] == scores["accuracy"]
    assert "adapter/model.safetensors" in seen.artefacts(old)
    new_model = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert (old_model.version, new_model.version) == (1, 2) or (
        old_model.version,
        new_model.version,
    ) == ("1", "2")
    assert new_model.tags["shardline.key"] == "adapt1111"

    tree.write_result("adapt", key="adapt0000", kind="lora")
    tree.write_scores("adapt", 0.86)
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    assert set(seen.stages) == {"sft0000", "adapt0000", "adapt1111"}
    back = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert str(back.version) == "1"


def test_a_run_that_its_user_deleted_stays_deleted(tree: ResultsTree, uri: str) -> None:
    deliver(tree, uri)
    seen = Seen(uri)
    seen.client.delete_run(seen.stages["sft0000"].info.run_id)
    write_the_report(tree)
    deliver(tree, uri)
    assert set(Seen(uri).stages) == {"adapt0000"}


def test_a_deleted_experiment_is_said(tree: ResultsTree, uri: str) -> None:
    deliver(tree, uri)
    seen = Seen(uri)
    seen.client.delete_experiment(seen.experiment.experiment_id)
    tree.write_training("sft", key="later")
    said: list[str] = []
    assert not deliver_once(tree.results, uri, "shardline", said.append)
    assert "was deleted: restore it" in said[0]


def test_a_damaged_journal_is_said_and_the_rest_is_delivered_later(
    tree: ResultsTree, uri: str
) -> None:
    journal = tree.work("adapt") / "metrics.jsonl"
    whole = journal.read_text()
    journal.write_text(whole[:200] + "]\n")
    said: list[str] = []
    assert not deliver_once(tree.results, uri, "shardline", said.append)
    assert "metrics.jsonl: not valid JSON" in said[0]
    journal.write_text(whole)
    deliver(tree, uri)
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


def test_a_large_file_is_named_and_not_uploaded(
    tree: ResultsTree, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "LARGEST_ARTEFACT", 1000)
    deliver(tree, uri)
    seen = Seen(uri)
    run = seen.stages["adapt0000"]
    assert "adapter/model.safetensors" in run.data.tags["shardline.skipped_artefacts"]
    assert "adapter/model.safetensors" not in seen.artefacts(run)


def test_artefacts_are_found_from_another_folder(
    tree: ResultsTree, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert deliver_once(Path("results"), "sqlite:///results/mlflow.db", "shardline")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    seen = Seen(uri)
    run_id = seen.stages["sft0000"].info.run_id
    folder = Path(seen.client.download_artifacts(run_id, "plan", str(elsewhere)))
    plan = tree.results / "plans/demo/sft.json"
    assert sha256_file(folder / "sft.json") == sha256_file(plan)


def test_following_delivers_while_the_controller_lives(tree: ResultsTree, uri: str) -> None:
    journal = tree.work("adapt") / "metrics.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:3]))
    grow = (
        "import sys, time\n"
        "lines = open(sys.argv[1] + '.all').read().splitlines(keepends=True)\n"
        "for line in lines[3:]:\n"
        "    time.sleep(0.02)\n"
        "    with open(sys.argv[1], 'a') as file: file.write(line)\n"
    )
    Path(f"{journal}.all").write_text("".join(whole))
    with subprocess.Popen([sys.executable, "-c", grow, str(journal)]) as controller:
        done = follow(tree.results, uri, "shardline", controller=controller.pid, poll=0.2)
    assert done
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


def test_a_run_says_in_what_it_was_trained_and_learns_when_that_changes(
    tree: ResultsTree, uri: str
) -> None:
    record = tree.work("adapt") / "run.json"
    lock = sha256_file(LOCK)
    for commit, dirty in (("a" * 40, True), ("b" * 40, False)):
        git = {"commit": commit, "dirty": dirty}
        environment = {"git": git, "lock_sha256": lock, "versions": {"torch": "2.14"}}
        environment |= {"hardware": "h100"}
        write_json(record, {**read_json(record), "environment": environment})
        deliver(tree, uri)
        seen = Seen(uri)
        run = seen.stages["adapt0000"]
        tags = run.data.tags
        assert tags["mlflow.source.git.commit"] == commit
        assert tags["mlflow.source.git.dirty"] == str(dirty).lower()
        assert tags["shardline.lock_sha256"] == lock and tags["shardline.hardware"] == "h100"
        assert tags["shardline.version.torch"] == "2.14"
        assert tags["shardline.code"] == read_json(record)["code"]
        assert {"config/run.json", "environment/requirements.lock"} <= seen.artefacts(run)
        path = seen.client.download_artifacts(run.info.run_id, "config/run.json")
        assert read_json(Path(path)) == read_json(record)
    assert "mlflow.source.git.commit" not in seen.stages["sft0000"].data.tags
    state_file(tree.results, uri).unlink()
    deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    assert all(len(run.inputs.dataset_inputs) == 1 for run in seen.stages.values())
