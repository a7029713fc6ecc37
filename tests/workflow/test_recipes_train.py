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
    }
    return {
        "showui_test": {**grounding, "stages.sft.steps": 30},
        "showui_navigation": {
            **qwen2_vl,
            "train": ["steps", "screenagent"],
            "tokens": SMALL,
            "stages.sft.steps": 8,
            "stages.sft.global_batch.samples": 4,
        },
        "holo1": {
            **qwen2_5_vl,
            "train": ["pix2code", "websrc", "templates"],
            "tokens": SMALL,
            "stages.sft.schedule.warmup": 1,
        },
        "vase": vases,
        "aurora": {
            "base": TINY["llava"],
            "train": ["captions", "clips"],
            "tokens": {"image_side": 112},
            "stages.projection.epochs": 4,
            "stages.vision.train": ["captions", "clips"],
            "stages.vision.epochs": 4,
            "stages.language.train": ["captions", "clips"],
            "stages.language.epochs": 8,
        },
        "qwenvl": rows,
        "qwenvl_all": {**rows, "train": ["mllm_images"]},
    }


# Of each stage: what is tuned, and whether enough steps are taken for the loss to fall.
TRAINED = {
    "showui_test": {"sft": ({"llm"}, True)},
    "showui_navigation": {"sft": ({"llm"}, True)},
    "holo1": {"sft": ({"llm"}, True)},
    "vase": {"sft": ({"llm"}, True)},
    "aurora": {
        "projection": ({"projector"}, False),
        "vision": ({"projector", "vision"}, False),
        "language": ({"llm", "projector", "vision"}, False),
    },
    "qwenvl": {"sft": ({"llm"}, False)},
    "qwenvl_all": {"sft": ({"llm", "projector", "vision"}, False)},
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


def assert_trained(workspace: Workspace, stage: str, tuned: set[str], falls: bool) -> Json:
    """A stage ran its plan to the end, passed its gates and moved what it declares, no more."""
    results = workspace.path("results")
    folder = results / f"checkpoints/mine/{stage}"
    result, plan = (
        read_json(folder / "result.json"),
        read_json(results / f"plans/mine/{stage}.json"),
    )
    gates = result["gates"]
    assert gates["packing_parity"]["passed"]
    assert gates["packing_parity"]["max_difference"] < 1e-4
    assert gates["freeze_audit"]["moved"] == {
        module: module in tuned for module in ("llm", "projector", "vision")
    }
    lines = [line["metrics"] for line in read_journal(folder / "work" / result["key"])]
    assert result["steps"] == plan["steps"] == len(lines)
    assert lines[-1]["samples"] == plan["samples"]
    losses = [line["loss"] for line in lines]
    assert all(0 < loss < 20 for loss in losses)
    assert all(0 < line["grad_norm"] < float("inf") for line in lines)
    third = len(losses) // 3
    if falls:
        assert sum(losses[-third:]) < sum(losses[:third]), losses
    return result


def moved(family: str, before: Path, after: Path) -> set[str]:
    """The modules in which weights of two model folders differ, at the precision of the second."""
    module_of = modules.load("families", family).module_of
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {
        module_of(name) for name in new if not torch.equal(old[name].to(new[name].dtype), new[name])
    }


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if name == "showui_test" else pytest.mark.slow) for name in TRAINED],
)
def test_a_published_recipe_trains_on_real_samples(tmp_path, shared_data, recipe):
    workspace = Workspace.create(tmp_path / "project")
    workspace.write_config(config(recipe, tmp_path / "raw", shared_data))
    workspace.snakemake("train")
    for stage, (tuned, falls) in TRAINED[recipe].items():
        assert_trained(workspace, stage, tuned, falls)
