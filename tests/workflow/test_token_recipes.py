"""The five recipes from raw samples to plans, through real Snakemake, on the real samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from real_recipes import RECIPES, VASE, entry, registry, write_packs, write_vases
from shardline.files import read_json, read_jsonl
from workflow.workspace import Workspace

Json = dict[str, Any]

TOKEN_PIXELS = 28 * 28
SCREENS = {"min_visual_tokens": 256, "max_visual_tokens": 1344}
QWENVL_TOKENS = {
    "task": "chat",
    "min_pixels": 16 * TOKEN_PIXELS,
    "max_pixels": 576 * TOKEN_PIXELS,
    "video": {
        "interval": 2,
        "min_frames": 4,
        "max_frames": 8,
        "min_pixels": 256 * TOKEN_PIXELS,
        "max_pixels": 1664 * TOKEN_PIXELS,
    },
}
# Of each dataset: raw rows, samples after conversion and filters, then into and out of tokenising,
# for each of its variants. Of each plan: steps, packs, samples, different samples, patches.
EXPECTED: dict[str, tuple[dict[str, list[int]], dict[str, tuple[int, ...]]]] = {
    "showui": (
        {
            "agentnet": [7, 4, 4, 16, 16],
            "omniact": [2, 0, 0, 0, 0],
            "steps": [7, 7, 7, 7, 7],
            "screenagent": [42, 13, 13, 13, 13],
        },
        {"sft": (100, 500, 1600, 16, 6680400), "navigation": (2, 13, 20, 20, 85436)},
    ),
    "holo1": (
        {
            "pix2code": [4, 4, 4, 4, 4, 4, 4],
            "websrc": [11, 11, 11, 11, 11, 11, 11],
            "templates": [3, 3, 3, 3, 3, 3, 3],
        },
        {"answers": (6, 29, 48, 16, 137556), "everything": (7, 34, 54, 18, 158676)},
    ),
    "vase": ({"vases": [32, 32, 2, 2, 2]}, {"sft": (1, 1, 4, 2, 1296)}),
    "aurora": (
        {
            "captions": [9, 3, 3, 3, 3],
            "clips": [2, 2, 2, 2, 2],
            "vdc": [75, 0, 0, 0, 0],
        },
        {
            "projection": (1, 1, 3, 3, 192),
            "vision": (1, 1, 10, 5, 1408),
            "language": (1, 2, 10, 5, 1408),
        },
    ),
    "qwenvl": (
        {
            "finetune": [6, 4, 4, 4, 4],
            "mllm": [9, 9, 9, 9, 9],
            "swift": [45, 31, 12, 12, 12],
            "packs": [7, 7, 7, 7, 7],
        },
        {
            "packed": (2, 3, 57, 19, 40836),
            "flattened": (4, 57, 57, 19, 40836),
            "given": (9, 9, 9, 3, 12612),
        },
    ),
}


def stage(name: str, **changes: Any) -> Json:
    """A stage for which only its data matter: it is planned, not trained."""
    return {
        "name": name,
        "tune": {"llm": {"full": True, "lr": 1e-4}},
        "max_length": 4096,
        **changes,
    }


def recipes() -> dict[str, Json]:
    """The data of the five published set-ups, for models of a few layers."""
    filters = {name: chain for name, (_, chain) in RECIPES.items()}
    return {
        "my_showui": {
            "family": "qwen2_vl",
            "seed": 42,
            "base": "init:config/models/tiny_qwen2_vl.json",
            "train": ["agentnet", "omniact"],
            "filters": filters["showui"],
            "tokens": {
                "task": "grounding",
                **SCREENS,
                "crop": {"min": 0.5, "max": 1.5},
                "variants": 4,
            },
            "stages": [
                stage("sft", global_batch={"samples": 16}, steps=100),
                stage(
                    "navigation",
                    train=["steps", "screenagent"],
                    tokens={"task": "chat", **SCREENS},
                    global_batch={"samples": 16},
                    epochs=1,
                ),
            ],
            "evaluate": ["screenspot"],
        },
        "my_holo1": {
            "family": "qwen2_5_vl",
            "base": "init:config/models/tiny_qwen2_5_vl.json",
            "train": ["pix2code", "websrc", "templates"],
            "filters": filters["holo1"],
            "tokens": {"task": "chat", "max_visual_tokens": 1280},
            "stages": [
                stage("answers", global_batch={"samples": 8}, epochs=3, max_length=8192),
                stage(
                    "everything",
                    tokens={"task": "chat", "max_visual_tokens": 1280, "loss": "all"},
                    global_batch={"samples": 8},
                    epochs=3,
                    max_length=8192,
                    too_long="truncate_answer",
                ),
            ],
        },
        "my_vase": {
            "family": "qwen2_5_vl",
            "base": "init:config/models/tiny_qwen2_5_vl.json",
            "train": ["vases"],
            "filters": filters["vase"],
            "tokens": {"task": "chat", "max_pixels": 1280 * TOKEN_PIXELS},
            "stages": [stage("sft", global_batch={"samples": 16}, epochs=2)],
        },
        "my_aurora": {
            "family": "llava",
            "base": "init:config/models/tiny_llava.json",
            "train": ["captions"],
            "filters": filters["aurora"],
            "tokens": {"task": "chat", "image_side": 112},
            "stages": [
                stage("projection", global_batch={"samples": 16}, epochs=1),
                stage(
                    "vision", train=["captions", "clips"], global_batch={"samples": 24}, epochs=2
                ),
                stage(
                    "language",
                    train=["captions", "clips", "vdc"],
                    global_batch={"tokens": 8192},
                    epochs=2,
                ),
            ],
        },
        "my_qwenvl": {
            "family": "qwen2_5_vl",
            "base": "init:config/models/tiny_qwen2_5_vl.json",
            "train": ["finetune", "mllm%50", "swift#10"],
            "filters": filters["qwenvl"],
            "split": {"validation": "10%"},
            "tokens": QWENVL_TOKENS,
            "stages": [
                stage("packed", global_batch={"tokens": 16384}, epochs=3, max_length=8192),
                stage("flattened", global_batch={"samples": 16}, packing="flatten", epochs=3),
                stage(
                    "given",
                    train=["packs"],
                    global_batch={"tokens": 4096},
                    packing="given",
                    epochs=3,
                ),
            ],
        },
    }


def project_config(folder: Path, shared_data: Path, recipe: str) -> Json:
    """The recipes, of which one is built, and their datasets."""
    write_vases(folder / "vases", shared_data)
    write_packs(folder / "packs", shared_data)
    options = VASE["chicken"][3]
    datasets = registry(shared_data)
    datasets["vases"] = entry(folder / "vases", "multiview", None, options)
    datasets["packs"] = entry(folder / "packs", "qwenvl", None, {"annotations": "packs.json"})
    return {"datasets": datasets, "recipes": recipes(), "build": [recipe]}


def funnel(workspace: Workspace, dataset: str) -> list[int]:
    """Rows of a dataset, and samples after conversion, filters and tokenising of its variants."""
    results = workspace.path("results")
    rows = read_json(results / f"converted/{dataset}/manifest.json")["rows"]
    assert rows["in"] == rows["kept"] + rows["rejected"]
    counts = [rows["in"], rows["kept"]]
    for path in sorted(results.glob(f"filtered/{dataset}/*/manifest.json")):
        filtered = read_json(path)["samples"]
        assert filtered["in"] == rows["kept"] == filtered["kept"] + filtered["rejected"]
        counts.append(filtered["kept"])
    for path in sorted(results.glob(f"tokens/{dataset}/*/manifest.json")):
        manifest = read_json(path)
        samples, rejects = manifest["samples"], list(read_jsonl(path.with_name("rejects.jsonl")))
        assert samples["in"] == samples["kept"] + samples["rejected"]
        assert samples["rejected"] == len(rejects)
        assert manifest["reasons"] == Counter(reject["reason"] for reject in rejects)
        assert sum(shard["samples"] for shard in manifest["shards"]) == samples["kept"]
        assert sum(shard["tokens"] for shard in manifest["shards"]) == manifest["tokens"]
        counts += [samples["in"], samples["kept"]]
    return counts


def figures(workspace: Workspace, recipe: str, stage: str) -> tuple[int, ...]:
    """Of a plan: steps, packs, samples, different samples, patches; its sums must be right."""
    path = workspace.path(f"results/plans/{recipe}/{stage}.json")
    plan = read_json(path)
    packs = pq.read_table(path.with_suffix(".parquet"), partitioning=None)
    rejects = list(read_jsonl(path.with_name(f"{stage}.rejects.jsonl")))
    columns = {"tokens": "tokens", "supervised": "supervised_tokens", "patches": "patches"}
    for column, name in columns.items():
        assert pc.sum(packs[column]).as_py() == plan[name]
    assert pc.max(packs["tokens"]).as_py() <= plan["max_length"]
    assert plan["fill"] == round(plan["tokens"] / (plan["packs"] * plan["max_length"]), 6)
    assert sum(plan["histogram"]["counts"]) == plan["samples"]
    assert plan["rejected"] == len(rejects)
    assert plan["reasons"] == Counter(reject["reason"] for reject in rejects)
    return tuple(
        plan[name] for name in ("steps", "packs", "samples", "distinct_samples", "patches")
    )


def assert_accounted(workspace: Workspace, recipe: str, stage: str) -> None:
    """Every tokenised sample of a stage may be drawn, is held out, or is refused with a reason."""
    results = workspace.path("results")
    plan = read_json(results / f"plans/{recipe}/{stage}.json")
    refused = Counter(
        row["dataset"] for row in read_jsonl(results / f"plans/{recipe}/{stage}.rejects.jsonl")
    )
    for folder in {Path(shard["path"]).parent for shard in plan["shards"]}:
        manifest = read_json(results / folder / "manifest.json")
        dataset = manifest["dataset"]
        held = plan["split"]["held_out"][dataset] if plan["split"] else 0
        drawable = plan["shares"][dataset]["available"]
        if plan["packing"] == "given":  # which counts packs
            drawable = plan["distinct_samples"]
        assert manifest["samples"]["kept"] == drawable + held + refused[dataset], dataset


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_from_raw_samples_to_plans(tmp_path, shared_data, recipe):
    mine = f"my_{recipe}"
    workspace = Workspace.create(tmp_path / "project")
    workspace.write_config(project_config(tmp_path / "raw", shared_data, mine))
    workspace.snakemake("plans")
    funnels, plans = EXPECTED[recipe]
    assert {name: funnel(workspace, name) for name in funnels} == funnels
    assert {name: figures(workspace, mine, name) for name in plans} == plans
    for name in plans:
        assert_accounted(workspace, mine, name)
