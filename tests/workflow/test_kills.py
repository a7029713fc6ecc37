"""Kill the run anywhere, ten times: what comes out equals an uninterrupted run's."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shardline.files import read_jsonl
from workflow.killing import kill_next
from workflow.workspace import MINI, Workspace, assert_same_artefacts

# What is killed while which program runs; a training is killed after its first checkpoint.
KILLS = [
    ("group", "fetch_dataset"),
    ("job", "convert_dataset"),
    ("controller", "decide_filters"),
    ("group", "write_image_shard"),
    ("job", "tokenize_shard"),
    ("controller", "build_model"),
    ("job", "plan_stage"),
    ("group", "train_stage"),
    ("controller", "train_stage"),
    ("job", "merge_model"),
    ("group", "predict_benchmark"),
    ("job", "write_report"),
]


@pytest.fixture
def config() -> dict:
    """The mini recipe with longer trainings."""
    longer = copy.deepcopy(MINI)
    longer["recipes"]["mini"] |= {"stages.sft.steps": 30, "stages.adapt.steps": 12}
    return longer


def create(folder: Path, config: dict) -> Workspace:
    workspace = Workspace.create(folder)
    workspace.write_config(config)
    workspace.edit("config/hardware/cpu.yaml", "checkpoint_every: 100", "checkpoint_every: 3")
    return workspace


def whole_checkpoints(workspace: Workspace) -> set[str]:
    pattern = "results/checkpoints/mini/*/work/*/checkpoint-*/complete.json"
    return {str(file) for file in workspace.folder.glob(pattern)}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_ten_kills_change_nothing(tmp_path, config):
    chance = random.Random(7)
    reference = create(tmp_path / "reference", config)
    reference.snakemake("all")

    killed = create(tmp_path / "killed", config)
    remaining, logs = list(KILLS), []
    while remaining:
        log = killed.path(f"run-{len(logs)}.log")
        logs.append(kill_next(killed, "all", log, remaining, chance, may_die(killed)))
    everything = "\n".join([*logs, killed.snakemake("all").output])
    assert re.search(r"resuming at step [1-9]", everything)
    assert "released the lock of a run that is no longer alive" in everything

    assert_same_artefacts(killed, reference)
    for stage in ("sft", "adapt"):
        assert losses(killed, stage) == losses(reference, stage)


def may_die(workspace: Workspace) -> Callable[[str], bool]:
    """Whether a program may be killed now: a training only after a new checkpoint."""
    before = whole_checkpoints(workspace)
    return lambda program: program != "train_stage" or bool(whole_checkpoints(workspace) - before)


def losses(workspace: Workspace, stage: str) -> list[tuple[int, float]]:
    """Step and loss of every line of a training's journal."""
    pattern = f"results/checkpoints/mini/{stage}/work/*/metrics.jsonl"
    (journal,) = workspace.folder.glob(pattern)
    return [(row["step"], row["metrics"]["loss"]) for row in read_jsonl(journal)]
