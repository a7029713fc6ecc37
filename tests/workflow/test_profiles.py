"""The six profiles: dry-runs, the hardware preset they name, and what they ask of Slurm."""

from __future__ import annotations

import os
import re

import pytest
import yaml

from shardline.hardware import load_hardware
from workflow.workspace import Workspace

PRESETS = {
    "local": "cpu",
    "a100": "a100_80",
    "h100": "h100",
    "slurm_a100": "a100_80",
    "slurm_h100": "h100",
    "slurm_8xh100": "h100x8",
}
ASKED = {
    "slurm_a100": {"-p": "a100", "--gpus": "a100:1", "--cpus-per-task": "16"},
    "slurm_h100": {"-p": "h100", "--gpus": "h100:1", "--cpus-per-task": "16"},
    "slurm_8xh100": {"-p": "h100", "--gpus": "h100:8", "--cpus-per-task": "64"},
}
# Answers of a cluster whose queue is empty and whose scheduler takes no job.
STUBS = dict.fromkeys(("squeue", "sinfo", "sacct", "scontrol", "sacctmgr", "scancel"), "exit 0")


def test_all_profiles_are_here_and_none_is_called_default(finished):
    folders = {folder.name for folder in finished.path("profiles").iterdir()}
    assert folders == set(PRESETS)


@pytest.mark.parametrize("profile", PRESETS)
def test_a_profile_names_its_preset_also_beside_a_users_config(project, profile):
    project.path("results/checkpoints/mini/sft/result.json").rename(project.path("kept.json"))
    try:
        words = ("--printshellcmds", "train", "--config", "build=[mini]")
        output = project.dry_run(*words, profile=profile).output
    finally:
        project.path("kept.json").rename(project.path("results/checkpoints/mini/sft/result.json"))
    assert f"--hardware config/hardware/{PRESETS[profile]}.yaml" in output
    preset = load_hardware(project.path(f"config/hardware/{PRESETS[profile]}.yaml"))
    assert preset.ranks == (8 if profile == "slurm_8xh100" else 1)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(name, marks=() if name == "slurm_8xh100" else pytest.mark.slow)
        for name in ASKED
    ],
)
def test_a_training_asks_slurm_for_its_gpus(clone, tmp_path, profile):
    asked = submitted(clone, tmp_path / "bin", profile, "train")
    assert {flag: asked[flag] for flag in ASKED[profile]} == ASKED[profile]
    assert asked["--nodes"] == "1"
    assert "--no-requeue" in asked
    assert not any(flag.startswith("--ntasks") for flag in asked)
    assert int(asked["--mem"]) >= 100_000
    assert int(asked["-t"]) == 48 * 60


def test_data_work_asks_slurm_for_no_gpu(clone, tmp_path):
    clone.path("results/plans/mini/sft.json").unlink()
    asked = submitted(clone, tmp_path / "bin", "slurm_8xh100", "plans")
    assert asked["-p"] == "cpu"
    assert not {"--gpus", "--gres"} & set(asked)


def submitted(workspace: Workspace, folder, profile: str, target: str) -> dict[str, str]:
    """Flag -> value of the sbatch call that a run makes for the first job it would submit."""
    if target == "train":
        workspace.path("results/checkpoints/mini/adapt/result.json").unlink()
    folder.mkdir()
    log = folder / "sbatch.log"
    stubs = {**STUBS, "sbatch": f"printf '%s\\n' \"$@\" > {log}; exit 1"}
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    search = f"{folder}:{os.environ['PATH']}"
    run = workspace.snakemake(
        target, "--retries", "0", profile=profile, check=False, extra={"PATH": search}
    )
    assert "sbatch failed" in run.output, run.output[-3000:]
    words = log.read_text().split("\n--wrap")[0].splitlines()
    flags = {}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if match := re.match(r"(--?[\w-]+)(?:=(.*))?$", word):
            flags[match[1]] = match[2] if match[2] is not None else value
    return flags


def test_profiles_set_no_config(finished):
    for profile, preset in PRESETS.items():
        settings = yaml.safe_load(finished.path(f"profiles/{profile}/config.v9+.yaml").read_text())
        assert "config" not in settings, "a user's --config would silently replace it"
        assert settings["default-resources"]["hardware"] == preset
