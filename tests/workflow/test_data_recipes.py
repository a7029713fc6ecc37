"""The data stages of the five recipes, through real Snakemake, on the real samples."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from real_recipes import RECIPES, registry
from shardline.files import read_jsonl
from workflow.killing import kill_next
from workflow.workspace import Workspace, assert_same_artefacts

# Of each dataset: rows, reasons of the rows that conversion rejects, reasons of filters.
EXPECTED: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "agentnet": (7, {"no_click": 3}, {}),
    "omniact": (2, {"missing_image": 2}, {}),
    "steps": (7, {}, {}),
    "screenagent": (42, {"negative_example": 10, "no_action": 19}, {}),
    "screenspot": (769, {"missing_image": 767}, {}),
    "pix2code": (4, {}, {}),
    "websrc": (11, {}, {}),
    "templates": (3, {}, {}),
    "chicken": (48, {"no_group": 16}, {"not_best_view": 21, "near_duplicate": 9}),
    "turntables": (12, {}, {"not_best_view": 9}),
    "photographs": (10, {}, {"exact_duplicate": 1, "near_duplicate": 1}),
    "objects": (22, {}, {}),
    "clips": (2, {}, {}),
    "captions": (9, {"missing_video": 6}, {}),
    "vdc": (75, {"no_conversation": 75}, {}),
    "finetune": (6, {"missing_video": 2}, {}),
    "mllm": (9, {}, {}),
    "swift": (45, {"no_question": 6, "remote_media": 8}, {"exact_duplicate": 19}),
}
# Each in a run of one recipe; a job killed alone lets the other datasets go on to the end.
KILLS = [
    ("showui", "group", "convert_dataset"),
    ("showui", "controller", "decide_filters"),
    ("showui", "job", "write_image_shard"),
    ("holo1", "controller", "convert_dataset"),
    ("holo1", "group", "decide_filters"),
    ("holo1", "job", "decide_filters"),
    ("vase", "controller", "score_image_shard"),
    ("vase", "job", "score_image_shard"),
    ("aurora", "job", "convert_dataset"),
    ("aurora", "controller", "write_image_shard"),
    ("qwenvl", "group", "write_image_shard"),
]


def as_recipe(name: str) -> dict:
    """A recipe whose data stages are the matter; its stage is never run."""
    datasets, filters = RECIPES[name]
    tests = [dataset for dataset in datasets if dataset == "screenspot"]
    return {
        "family": "qwen2_vl",
        "base": "init:config/models/tiny_qwen2_vl.json",
        "train": [dataset for dataset in datasets if dataset not in tests],
        "filters": filters,
        "tokens": {"task": "grounding"},
        "stages": [
            {
                "name": "sft",
                "tune": {"llm": {"full": True, "lr": 1e-3}},
                "global_batch": {"samples": 1},
                "steps": 1,
                "max_length": 4096,
            }
        ],
        "evaluate": tests,
    }


def project_config(shared_data) -> dict:
    """The five recipes over the real samples."""
    return {
        "datasets": registry(shared_data),
        "recipes": {name: as_recipe(name) for name in RECIPES},
        "build": list(RECIPES),
    }


def counts_of(workspace: Workspace, dataset: str) -> tuple[int, Counter[str], Counter[str]]:
    """Rows, reasons of conversion, reasons of filters; what does not add up fails here."""
    results = workspace.path("results")
    manifest = json.loads((results / f"converted/{dataset}/manifest.json").read_text())
    rejects = Counter(
        reject["reason"] for reject in read_jsonl(results / f"converted/{dataset}/rejects.jsonl")
    )
    rows = manifest["rows"]
    assert rows["in"] == rows["kept"] + rows["rejected"], dataset
    assert rows["rejected"] == rejects.total(), dataset
    filtered: Counter[str] = Counter()
    for path in results.glob(f"filtered/{dataset}/*/manifest.json"):
        samples = json.loads(path.read_text())["samples"]
        filtered.update(row["reason"] for row in read_jsonl(path.parent / "rejects.jsonl"))
        assert samples["in"] == rows["kept"], dataset
        assert samples["in"] == samples["kept"] + filtered.total(), dataset
    return rows["in"], rejects, filtered


def test_every_row_is_kept_or_rejected_with_its_reason(tmp_path, shared_data):
    workspace = Workspace.create(tmp_path / "project")
    workspace.write_config(project_config(shared_data))
    workspace.snakemake("data", "--config", f"build=[{','.join(RECIPES)}]")
    assert {dataset: counts_of(workspace, dataset) for dataset in EXPECTED} == EXPECTED


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eleven_kills_and_one_core_change_nothing(tmp_path, shared_data):
    """SIGKILLs during conversion, scoring, filtering and shard writing."""
    chance = random.Random(11)
    config = project_config(shared_data)
    reference = Workspace.create(tmp_path / "reference")
    reference.write_config(config)
    reference.snakemake("data", "--cores", "1")

    killed = Workspace.create(tmp_path / "killed")
    killed.write_config(config)
    for recipe, what, program in KILLS:
        killed.write_config({**config, "build": [recipe]})
        log = killed.path(f"{recipe}-{what}-{program}.log")
        kill_next(killed, "data", log, [(what, program)], chance)
    killed.write_config(config)
    killed.snakemake("data")
    assert_same_artefacts(killed, reference)
