"""The ShowUI recipe on real screenshots, with a tiny model in place of the 2B one."""

from __future__ import annotations

import copy
import json

from workflow.workspace import MINI, Workspace


def test_showui_recipe_on_real_screenshots(tmp_path, shared_data):
    workspace = Workspace.create(tmp_path / "project")
    config = copy.deepcopy(MINI)
    config["datasets"] = {
        "agentnet": {
            "source": f"folder:{shared_data / 'agentnetbench_trajectories'}",
            "format": "agentnetbench",
            "frame": "unit_xywh",
            "licence": "mit",
            "max_reject_share": 1.0,
        },
        "screenshots": {
            "source": f"folder:{shared_data / 'screenspot_v2'}",
            "format": "screenspot",
            "frame": "pixel_xyxy",
            "licence": "apache-2.0",
            "metric": "point_in_box",
            "max_reject_share": 1.0,
        },
    }
    config["recipes"] = {
        "showui": {
            "base": "init:config/models/tiny_qwen2_vl.json",
            "train": ["agentnet"],
            "evaluate": ["screenshots"],
        },
        "showui_cpu": {
            "extends": "showui",
            "stages.sft.steps": 2,
            "stages.sft.global_batch.samples": 2,
            "stages.sft.precision": "fp32",
        },
    }
    config["build"] = ["showui_cpu"]
    workspace.write_config(config)
    workspace.snakemake("all")

    results = workspace.path("results")
    converted = json.loads((results / "converted/screenshots/manifest.json").read_text())
    assert converted["rows"]["in"] == 334 + 435
    assert converted["rows"]["kept"] + converted["rows"]["rejected"] == converted["rows"]["in"]
    summary = json.loads((results / "reports/showui_cpu/summary.json").read_text())
    for model in ("base", "sft"):
        scores = summary["scores"]["screenshots"][model]
        assert scores["n"] == converted["rows"]["kept"] >= 1
        assert scores["missing"] == converted["rows"]["rejected"]
    plan = json.loads((results / "plans/showui_cpu/sft.json").read_text())
    assert plan["steps"] == 2
    page = (results / "reports/showui_cpu/index.html").read_text()
    assert f"{scores['n']}" in page
