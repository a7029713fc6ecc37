"""Features through real Snakemake: computed once a shard, and by nothing but what shapes them."""

from __future__ import annotations

import copy

import pytest

from shardline.files import read_json
from unit import tiny_models
from workflow.workspace import MINI, Workspace

COMPUTING = {"compute_features", "write_features_manifest"}


def configure(workspace: Workspace, base, screens=18, **changes) -> None:
    config = copy.deepcopy(MINI)
    config["datasets"]["demo_screens"]["source_options"]["screens"] = screens
    config["recipes"]["mini"] |= {
        "base": f"folder:{base}",
        "filters": [],
        "evaluate": [],
        "stages.sft.cache_features": True,
        "stages.sft.tune.vision": None,
        "stages.adapt.cache_features": True,
        "stages.adapt.train": ["demo_screens"],
        **changes,
    }
    workspace.write_config(config)


def shards(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.path("results/features/demo_screens")
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("shard-*.*"))}


@pytest.mark.slow
def test_features_are_computed_once_and_a_grown_dataset_computes_what_is_new(tmp_path):
    base = tiny_models.build(tmp_path / "base")
    workspace = Workspace.create(tmp_path / "project")
    configure(workspace, base)
    run = workspace.snakemake("train")
    assert run.executed["compute_features"] == 2  # two shards, both stages
    assert run.executed["write_features_manifest"] == 1
    (manifest,) = workspace.path("results/features").rglob("manifest.json")
    assert manifest.parent.name.startswith("tower-")
    for stage in ("sft", "adapt"):
        result = read_json(workspace.path(f"results/checkpoints/mini/{stage}/result.json"))
        assert list(result["features_sha256"]) == [str(manifest.relative_to(workspace.folder))]
        assert result["gates"]["features"]["passed"]
    assert "Nothing to be done" in workspace.dry_run("train").output
    for profile in ("h100", "slurm_8xh100"):
        assert "Nothing to be done" in workspace.dry_run("train", profile=profile).output

    rate = {"stages.sft.tune.llm.lr": 0.5}
    configure(workspace, base, **rate)
    run = workspace.dry_run("train")
    assert run.jobs["train_stage"] == 2 and not COMPUTING & set(run.jobs)
    configure(workspace, base, **{"stages.sft.precision": "bf16"})
    assert set(workspace.dry_run("train").jobs) > COMPUTING

    expected = shards(workspace)
    for path in manifest.parent.glob("shard-00001-*"):
        path.unlink()
    configure(workspace, base)
    workspace.snakemake("--forcerun", "compute_features", "--until", "write_features_manifest")
    assert shards(workspace) == expected

    configure(workspace, base, screens=20)
    run = workspace.snakemake("train")
    assert run.executed["compute_features"] == 1
    assert run.executed["train_stage"] == 2
    found = shards(workspace)
    assert len(found) == len(expected) + 2
    assert {name: found[name] for name in expected} == expected
