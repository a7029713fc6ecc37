"""Kill the run anywhere, ten times: what comes out equals an uninterrupted run's."""

from __future__ import annotations

import copy
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from shardline.files import read_jsonl
from workflow.workspace import MINI, Workspace, assert_same_artefacts, kill_group

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


def running(workspace: Workspace, program: str) -> list[int]:
    """Process ids of a program that runs in a workspace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "cwd").resolve() == workspace.folder.resolve()
        except OSError:
            continue
        if here and f"scripts/{program}.py".encode() in words and b"bash" not in words[0]:
            found.append(int(process.name))
    return found


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
        logs.append(kill_next(killed, killed.path(f"run-{len(logs)}.log"), remaining, chance))
    everything = "\n".join([*logs, killed.snakemake("all").output])
    assert re.search(r"resuming at step [1-9]", everything)
    assert "released the lock of a run that is no longer alive" in everything

    assert_same_artefacts(killed, reference)
    for stage in ("sft", "adapt"):
        assert losses(killed, stage) == losses(reference, stage)


def kill_next(
    workspace: Workspace, log: Path, remaining: list[tuple[str, str]], chance: random.Random
) -> str:
    """Start a run and kill at the first program of those that remain; what was printed."""
    before = whole_checkpoints(workspace)
    run = workspace.start(log, "all")

    def due() -> list[tuple[str, str]]:
        saved = whole_checkpoints(workspace) - before
        return [
            kill
            for kill in remaining
            if (kill[1] != "train_stage" or saved) and running(workspace, kill[1])
        ]

    found: list[tuple[str, str]] = []
    while not found and run.poll() is None:
        found = due()
        time.sleep(0.05)
    assert found, f"did not run: {remaining}\n{log.read_text()[-4000:]}"
    what, program = found[0]
    remaining.remove(found[0])
    time.sleep(chance.random() * 0.4)
    if what == "job":
        for pid in running(workspace, program):
            os.kill(pid, signal.SIGKILL)
    elif what == "controller":
        run.kill()
    else:
        kill_group(run)
    run.wait()
    return log.read_text()


def losses(workspace: Workspace, stage: str) -> list[tuple[int, float]]:
    """Step and loss of every line of a training's journal."""
    pattern = f"results/checkpoints/mini/{stage}/work/*/metrics.jsonl"
    (journal,) = workspace.folder.glob(pattern)
    return [(row["step"], row["metrics"]["loss"]) for row in read_jsonl(journal)]
