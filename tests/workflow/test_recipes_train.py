"""The published recipes train: from raw real samples, with tiny models in place of the large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clip_models import write_open_clip
from real_recipes import VASE, entry, registry, write_packs, write_vases
from shardline import registry as modules
from shardline.files import read_json
from shardline.training.journal import read_journal
from shardline.training.outcome import final_folder
from workflow.workspace import Workspace

Json = dict[str, Any]

TINY = {
    "qwen2_vl": "init:config/models/tiny_qwen2_vl.json",
    "qwen2_5_vl": "init:config/models/tiny_qwen2_5_vl.json",
    "llava": "init:config/models/tiny_llava.json",
}
SMALL = {"min_visual_tokens": 4, "max_visual_tokens": 64}
SMALL_PIXELS = {"min_pixels": 4 * 784, "max_pixels": 64 * 784}


def overlays(clip: Path) -> dict[str, Json]:
    """What a user changes of each recipe: base, data, number of steps, size of pictures."""
    qwen2_vl, qwen2_5_vl = {"base": TINY["qwen2_vl"]}, {"base": TINY["qwen2_5_vl"]}
    of_clip = {"model": f"folder:{clip}"}
    vases = {
        **qwen2_5_vl,
        "train": ["vases"],
        "split": None,
        "filters": [
            {"clip_quality": {**of_clip, "percentile": 25}},
            {"best_view": {"scorer": "clip_quality", "scorer_options": of_clip, "score": "high"}},
        ],
        "tokens": SMALL_PIXELS,
        "stages.sft.epochs": 96,
        "stages.sft.validate": None,
    }
    grounding = {
        **qwen2_vl,
        "train": ["agentnet"],
        "evaluate": ["screenspot"],
        "tokens": SMALL,
    }
    rows = {
        **qwen2_5_vl,
        "train": ["finetune", "mllm%50", "swift#10"],
        "tokens": {**SMALL_PIXELS, "video": SMALL_PIXELS},
        "stages.sft.global_batch.tokens": 8192,
        "stages.sft.epochs": 8,
        "stages.sft.tune.llm.lr": 1.0e-3,  # the published one is too low for so few steps
    }
    return {
        "showui_test": {**grounding, "stages.sft.steps": 30},
        "showui_navigation": {
            **qwen2_vl,
            "train": ["steps", "screenagent"],
            "tokens": SMALL,
            "stages.sft.steps": 16,
            "stages.sft.global_batch.samples": 4,
        },
        "holo1": {
            **qwen2_5_vl,
            "train": ["pix2code", "websrc", "templates"],
            "tokens": SMALL,
            "stages.sft.schedule.warmup": 1,
            "stages.sft.max_length": 4096,  # half of the time, for the pages that fit
            "stages.sft.global_batch.samples": 4,
            "split.validation": "20%",
            "stages.sft.validate.every": 4,
        },
        "vase": vases,
        "aurora": {
            "base": TINY["llava"],
            "train": ["captions", "clips"],
            "tokens": {"image_side": 112},
            "stages.projection.epochs": 24,
            "stages.vision.train": ["captions", "clips"],
            "stages.vision.epochs": 32,
            "stages.language.train": ["captions", "clips"],
            "stages.language.epochs": 32,
        },
        "qwenvl": rows,
        "qwenvl_all": {**rows, "train": ["mllm_images"]},
    }


# Of each stage, in order: the modules that it tunes.
TRAINED = {
    "showui_test": {"sft": {"llm"}},
    "showui_navigation": {"sft": {"llm"}},
    "holo1": {"sft": {"llm"}},
    "vase": {"sft": {"llm"}},
    "aurora": {
        "projection": {"projector"},
        "vision": {"projector", "vision"},
        "language": {"llm", "projector", "vision"},
    },
    "qwenvl": {"sft": {"llm"}},
    "qwenvl_all": {"sft": {"llm", "projector", "vision"}},
}


def config(recipe: str, folder: Path, shared_data: Path) -> Json:
    """A user's config that extends one recipe."""
    write_vases(folder / "vases", shared_data)
    write_packs(folder / "packs", shared_data)
    datasets = registry(shared_data)
    datasets["vases"] = entry(folder / "vases", "multiview", None, VASE["chicken"][3])
    datasets["mllm_images"] = entry(
        shared_data / "llama_factory_mllm_demo", "qwenvl", None, {"annotations": "mllm_demo.json"}
    )
    clip = write_open_clip(folder / "clip") if recipe == "vase" else folder
    overlay = {"extends": recipe, **overlays(clip)[recipe]}
    return {"datasets": datasets, "recipes": {"mine": overlay}, "build": ["mine"]}


def assert_trained(workspace: Workspace, stage: str, tuned: set[str]) -> Path:
    """A stage ran its plan to the end, passed its gates and learned; the folder of its weights."""
    results = workspace.path("results")
    folder = results / f"checkpoints/mine/{stage}"
    result = read_json(folder / "result.json")
    plan = read_json(results / f"plans/mine/{stage}.json")
    gates = result["gates"]
    assert gates["packing_parity"]["passed"]
    assert gates["packing_parity"]["max_difference"] < 1e-5
    assert {module for module, moved in gates["freeze_audit"]["moved"].items() if moved} == tuned
    journal = [line["metrics"] for line in read_journal(folder / "work" / result["key"])]
    lines = [line for line in journal if "loss" in line]
    assert result["steps"] == plan["steps"] == len(lines)
    assert lines[-1]["samples"] == plan["samples"]
    assert all(0 < line["grad_norm"] < float("inf") for line in lines)
    watched = [line["validation/loss"] for line in journal if "validation/loss" in line]
    assert ("best" in result) == bool(watched)
    if watched:
        assert result["best"]["validation_loss"] == min(watched)
    losses = [line["loss"] for line in lines]
    third = len(losses) // 3
    assert sum(losses[-third:]) < sum(losses[:third]), losses
    return final_folder(folder / "result.json", result)


def moved(family: Any, before: Path, after: Path) -> set[str]:
    """The modules whose weights differ between two models, or that an adapter changes."""
    adapter = after / "adapter_model.safetensors"
    if adapter.is_file():
        added = load_file(adapter)
        return {
            family.module_of(name) for name in added if ".lora_B." in name and added[name].any()
        }
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {
        family.module_of(name)
        for name, value in new.items()
        if not torch.equal(old[name].to(value.dtype), value)
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINED)
def test_a_published_recipe_trains_on_real_samples(tmp_path, shared_data, recipe):
    workspace = Workspace.create(tmp_path / "project")
    workspace.write_config(config(recipe, tmp_path / "raw", shared_data))
    workspace.snakemake("train")
    (weights,) = workspace.path("results/raw/models").glob("tiny_*/model.safetensors")
    family = modules.load("families", weights.parent.name.removeprefix("tiny_").rsplit("-", 1)[0])
    before = weights.parent
    for stage, tuned in TRAINED[recipe].items():
        after = assert_trained(workspace, stage, tuned)
        assert moved(family, before, after) == tuned
        before = after
