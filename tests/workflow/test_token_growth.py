"""A grown dataset tokenises what is new, a rejected row its own shard; real Snakemake runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from raw_datasets import picture, save, screen, write_showui
from shardline.files import read_json, read_jsonl, write_json
from token_data import tokenizer_folder
from workflow.workspace import Run, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROWS = 300
BLOCK = 100
LABELS = ("Save", "Cancel", "Search", "Sign in", "Page")
OF_STAGE = ("max_length", "max_patches", "global_batch", "too_long")
MODEL = {"vision_config": {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}}


def config(source: Path, model: Path) -> dict[str, Any]:
    """One dataset in blocks of rows, for a base model that is there already."""
    return {
        "datasets": {
            "growing": {
                "source": f"folder:{source}",
                "format": "showui",
                "frame": "unit_xyxy",
                "licence": "mit",
                "shard_rows": BLOCK,
            }
        },
        "recipes": {
            "grown": {
                "family": "qwen2_vl",
                "base": f"folder:{model}",
                "train": ["growing"],
                "filters": ["dedup"],
                "tokens": {"task": "grounding", "min_visual_tokens": 4, "max_visual_tokens": 16},
                "stages": [
                    {
                        "name": "sft",
                        "tune": {"llm": {"full": True, "lr": 1e-3}},
                        "global_batch": {"tokens": 2048},
                        "epochs": 1,
                        "max_length": 512,
                    }
                ],
            }
        },
        "build": ["grown"],
    }


def draw(source: Path, rows: range) -> None:
    """Add the screens of these rows to the dataset, whose annotations end with them."""
    for row in rows:
        save(picture(row), source / "images" / f"{row}.png")
    records = [screen(f"{row}.png", [LABELS[row % 5], f"Row {row}"]) for row in range(rows.stop)]
    write_showui(source, records)


def shards(workspace: Workspace) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every token shard, its index and rejects."""
    (folder,) = workspace.path("results/tokens/growing").iterdir()
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("shard-*")
    }


def changed(before: dict, after: dict) -> set[str]:
    """Shards with a file that is new or has other bytes or another time."""
    assert before.keys() <= after.keys()
    files = (name for name in after if after[name] != before.get(name))
    return {re.sub(r"\.(tar|index\.parquet|rejects\.jsonl)$", "", name) for name in files}


def tokenised(run: Run) -> list[str]:
    return sorted(re.findall(r"tokenise growing (\S+)", run.output))


def planned(workspace: Workspace) -> int:
    return read_json(workspace.path("results/plans/grown/sft.json"))["samples"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> tuple[Workspace, Path]:
    """300 rows in 3 blocks, tokenised and planned; the tests that follow add to it."""
    root = tmp_path_factory.mktemp("growth")
    source, model = root / "data", tokenizer_folder(root)
    write_json(model / "config.json", MODEL)
    save_file({"norm": np.ones(1, np.float32)}, model / "model.safetensors")
    draw(source, range(ROWS))
    workspace = Workspace.create(root / "project")
    workspace.write_config(config(source, model))
    run = workspace.snakemake("plans")
    assert tokenised(run) == [f"{block:05}-png" for block in range(3)]
    assert planned(workspace) == ROWS
    return workspace, source


def test_appended_rows_and_a_rejected_one_cost_their_own_shards(grown):
    workspace, source = grown
    whole = shards(workspace)
    draw(source, range(ROWS, ROWS + 3))
    run = workspace.snakemake("plans")
    assert tokenised(run) == ["00003-png"]
    longer = shards(workspace)
    assert changed(whole, longer) == {"shard-00003-png"} and planned(workspace) == 303

    draw(source, range(ROWS + 3, ROWS + 6))
    assert tokenised(workspace.snakemake("plans")) == ["00003-png"]
    longest = shards(workspace)
    assert changed(longer, longest) == {"shard-00003-png"} and planned(workspace) == 306

    (source / "images" / "7.png").write_bytes(b"no picture any more")
    run = workspace.snakemake("plans")
    assert tokenised(run) == ["00000-png"]
    assert changed(longest, shards(workspace)) == {"shard-00000-png"} and planned(workspace) == 305
    rejects = list(read_jsonl(workspace.path("results/converted/growing/rejects.jsonl")))
    assert [row["row"].partition("#")[2] for row in rejects] == ["7"]
    assert "Nothing to be done" in workspace.dry_run("plans").output


def test_mixture_length_and_seed_only_plan_again(grown):
    workspace, _ = grown
    edits = {
        "train": ["growing%50"],
        "seed": 5,
        "max_length": 300,
        "max_patches": 900,
        "global_batch": {"samples": 4},
        "too_long": "truncate_answer",
    }
    assert set(dry_run(workspace, edits).jobs) == {"plan_stage", "plans"}


@pytest.mark.parametrize("edits", [{"tokens.max_visual_tokens": 12}, {"tokens.seed": 1}])
def test_limits_and_seed_of_tokens_tokenise_again(grown, edits):
    workspace, _ = grown
    jobs = dry_run(workspace, edits).jobs
    assert set(jobs) == {"tokenize_shard", "write_token_manifest", "plan_stage", "plans"}
    assert jobs["tokenize_shard"] == len(list(workspace.path("results/tokens").rglob("*.tar")))


def test_another_chat_template_tokenises_again(grown):
    workspace, _ = grown
    file = "scripts/shardline/qwen_chat.py"
    text = workspace.path(file).read_text()
    try:
        workspace.edit(file, "'<|im_end|>\\\\n'", "'<|im_end|>'")
        jobs = workspace.dry_run("plans").jobs
    finally:
        workspace.path(file).write_text(text)
    assert jobs["tokenize_shard"] == len(list(workspace.path("results/tokens").rglob("*.tar")))
    assert not {"convert_dataset", "decide_filters", "write_image_shard"} & set(jobs)


def dry_run(workspace: Workspace, edits: dict[str, Any]) -> Run:
    """What would run with dotted changes to the recipe or its stage; nothing runs."""
    before = workspace.config.read_text()
    edited = yaml.safe_load(before)
    recipe = edited["recipes"]["grown"]
    for name, value in edits.items():
        part = recipe["stages"][0] if name in OF_STAGE else recipe
        section, _, key = name.rpartition(".")
        (part[section] if section else part)[key] = value
    try:
        workspace.write_config(edited)
        return workspace.dry_run("plans")
    finally:
        workspace.config.write_text(before)
