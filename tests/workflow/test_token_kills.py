"""Kill a run while it tokenises or plans: what comes out equals an uninterrupted run's."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Sequence

import pytest

from workflow.killing import kill_next, running
from workflow.workspace import MINI, Workspace, assert_same_artefacts, wait_for

# What each program makes, below results/, and how long it may go on, in seconds.
PROGRAMS = {
    "tokenize_shard": (("tokens", "plans"), 2.0),
    "write_token_manifest": (("tokens/*/*/manifest.json", "plans"), 0.3),
    "plan_stage": (("plans",), 0.3),
}
PLANS = ("mini/sft", "mini/adapt", "talks/sft")
TRIES = 5
WAYS = ("job", "group", "controller")  # the last leaves jobs behind that go on by themselves


def assert_goes_on(workspace: Workspace, expected: Workspace) -> None:
    """The next run finishes, with the expected bytes and nothing left to do."""
    workspace.snakemake("plans")
    assert_same_artefacts(workspace, expected, ("tokens", "plans"))
    assert "Nothing to be done" in workspace.dry_run("plans").output


def test_a_run_killed_while_it_tokenises_goes_on(finished, clone):
    forget(clone, ("tokens", "plans"))
    log = clone.path("killed.log")
    kill_next(clone, "plans", log, [("group", "tokenize_shard")], random.Random(3))
    assert not list(clone.path("results/plans").rglob("*.json"))
    assert_goes_on(clone, finished)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_of_tokenising_and_planning_change_nothing(tmp_path, shared_data):
    """Each program killed each way at a random moment, on two cores; compared to one core."""
    chance = random.Random(13)
    reference = create(tmp_path / "reference", shared_data)
    reference.snakemake("plans", "--cores", "1")

    killed = create(tmp_path / "killed", shared_data)
    killed.snakemake("plans")
    assert_same_artefacts(killed, reference)
    for program in PROGRAMS:
        for what in WAYS:
            kill_while(killed, what, program, chance)
        assert_goes_on(killed, reference)
    assert_same_artefacts(killed, reference)


def kill_while(workspace: Workspace, what: str, program: str, chance: random.Random) -> None:
    """Kill while a program makes its files anew; again if it was too late: all plans were there."""
    parts, longest = PROGRAMS[program]
    for number in range(TRIES):
        wait_for(lambda: not any(running(workspace, name) for name in PROGRAMS))
        forget(workspace, parts)
        log = workspace.path(f"{program}-{what}-{number}.log")
        kill_next(workspace, "plans", log, [(what, program)], chance, longest=longest)
        if not all(workspace.path(f"results/plans/{plan}.json").exists() for plan in PLANS):
            return
    pytest.fail(f"{program} was never killed in time")


def forget(workspace: Workspace, parts: Sequence[str]) -> None:
    """Remove files and folders of the results."""
    for part in parts:
        for path in workspace.path("results").glob(part):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def create(folder, shared_data) -> Workspace:
    """Drawn screens in many shards beside real conversations with every kind of media."""
    config = copy.deepcopy(MINI)
    config["datasets"] = {
        "demo_screens": {"source_options": {"screens": 80}, "shard_rows": 20},
        "demo_night": {"source_options": {"screens": 20}, "shard_rows": 10},
    }
    names = {"mllm": "llama_factory_mllm_demo", "finetune": "qwen_vl_finetune_demo"}
    for name, part in names.items():
        config["datasets"][name] = {
            "source": f"folder:{shared_data / part}",
            "format": "qwenvl",
            "licence": "unknown",
            "max_reject_share": 1.0,
        }
    config["recipes"]["talks"] = {
        "extends": "mini",
        "train": list(names),
        "filters": ["dedup"],
        "tokens": {"task": "chat", "min_visual_tokens": 4, "max_visual_tokens": 400},
        "stages": [
            {
                "name": "sft",
                "tune": {"llm": {"full": True, "lr": 1e-3}},
                "global_batch": {"tokens": 16384},
                "epochs": 3,
                "max_length": 4096,
            }
        ],
        "exports": [],
        "evaluate": [],
    }
    config["build"] = ["mini", "talks"]
    workspace = Workspace.create(folder)
    workspace.write_config(config)
    return workspace
