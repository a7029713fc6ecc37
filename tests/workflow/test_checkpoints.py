"""Validation, the choice of a checkpoint, and a run that is extended, through real Snakemake."""

from __future__ import annotations

import copy

import pytest

from shardline.files import read_json
from workflow.workspace import MINI, Workspace

LORA = {"llm": {"lora": {"rank": 4, "alpha": 8}, "lr": 0.001}}


def configure(workspace: Workspace, export_from: str) -> None:
    more = {"name": "more", "continue_from": {"stage": "adapt", "step": 2}, "steps": 2}
    batch = {"global_batch": {"samples": 4}}
    adapt = {"name": "adapt", "tune": LORA, "steps": 4, "export_from": export_from}
    adapt["validate"] = {"every": 2, "data": "demo_test#3"}
    held_out = {"every": 1, "early_stop": {"patience": 5}}
    stages = [{**adapt, **batch}, {**more, **batch, "validate": held_out}]
    config = copy.deepcopy(MINI)
    config["recipes"]["mini"] = {
        "extends": "demo",
        "stages": stages,
        "filters": [],
        "split": {"validation": "30%", "by": "sample"},
        "exports": ["adapter", "merged"],
    }
    workspace.write_config(config)


@pytest.mark.slow
def test_a_recipe_validates_chooses_a_checkpoint_and_extends_a_run(tmp_path):
    workspace = Workspace.create(tmp_path / "project")
    configure(workspace, "best")
    run = workspace.snakemake("all")
    assert run.executed["plan_validation"] == run.executed["train_stage"] == 2
    summary = read_json(workspace.path("results/reports/mini/summary.json"))
    scores = summary["scores"]["demo_test"]
    marks = {model: score["selected_on_test"] for model, score in scores.items()}
    assert marks == {"base": False, "adapt": True, "more": False}
    adapt, more = (summary["stages"][f"train/{stage}"] for stage in ("adapt", "more"))
    assert (adapt["validation"]["samples"], adapt["validation"]["datasets"]) == (3, ["demo_test"])
    assert more["validation"]["held_out"] and more["best"]["step"] in (1, 2)
    assert more["continues"] == {"stage": "adapt", "key": adapt["key"], "step": 2}
    exported = summary["stages"]["export/adapt"]
    assert (exported["export_from"], exported["step"]) == ("best", adapt["best"]["step"])
    page = workspace.path("results/reports/mini/index.html").read_text()
    assert "selected on test" in page
    assert "It extends the run of adapt from step 2." in page
    assert "Nothing to be done" in workspace.dry_run("all").output
    for profile in ("h100", "slurm_8xh100"):
        assert "Nothing to be done" in workspace.dry_run("all", profile=profile).output

    configure(workspace, "step:3")
    assert "train_stage" not in workspace.dry_run("all").jobs
    configure(workspace, "step:2")
    run = workspace.snakemake("all")
    assert {"merge_model", "export_adapter", "write_report"} <= set(run.executed)
    assert not {"train_stage", "plan_stage", "plan_validation"} & set(run.executed)
    assert read_json(workspace.path("results/models/mini/adapt/merged.json"))["step"] == 2
    summary = read_json(workspace.path("results/reports/mini/summary.json"))
    assert not summary["scores"]["demo_test"]["adapt"]["selected_on_test"]
