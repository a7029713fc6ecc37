"""Token merging through real Snakemake: each stage has its ratio, from plan to export."""

from __future__ import annotations

import copy

import pytest

from shardline.families import llava
from shardline.files import read_json
from workflow.workspace import MINI, Workspace

STAGES = {"sft": 0.5, "adapt": 0.1}


def configure(workspace: Workspace, **changes) -> None:
    config = copy.deepcopy(MINI)
    config["recipes"]["mini"] |= {
        "family": "llava",
        "base": "init:config/models/tiny_llava.json",
        "tokens.image_side": 112,
        "split": {"validation": "10%"},
        "filters": [],
        "evaluate": [],
        **{f"stages.{name}.token_merging": {"ratio": ratio} for name, ratio in STAGES.items()},
        **changes,
    }
    workspace.write_config(config)


@pytest.mark.slow
def test_each_stage_has_its_ratio_and_a_changed_one_retokenises_nothing(tmp_path):
    workspace = Workspace.create(tmp_path / "project")
    configure(workspace)
    validation = [f"results/plans/mini/{name}.validation.json" for name in STAGES]
    targets = ("models", *validation)
    workspace.snakemake(*targets)
    for name, ratio in STAGES.items():
        plan = read_json(workspace.path(f"results/plans/mini/{name}.json"))
        kept = llava.kept_tokens(64, llava.Merging(ratio, 2))
        assert plan["token_merging"]["merged"] == plan["samples"] * (64 - kept)
        assert plan["token_merging"]["layers"] == 2
        held_out = read_json(workspace.path(f"results/plans/mini/{name}.validation.json"))
        assert held_out["token_merging"]["ratio"] == ratio
        exported = read_json(workspace.path(f"results/models/mini/{name}/merged/config.json"))
        assert exported["token_merging"] == {"ratio": ratio, "slowfast": False}
    assert "Nothing to be done" in workspace.dry_run(*targets).output
    configure(workspace, **{"stages.adapt.token_merging": {"ratio": 0.2}})
    run = workspace.dry_run(*targets)
    made = ("plan_stage", "plan_validation", "train_stage", "merge_model", "export_adapter")
    expected = dict.fromkeys(made, 1)
    assert {rule: count for rule, count in run.jobs.items() if rule != "models"} == expected
