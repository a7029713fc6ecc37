"""The recipes in the repository: each is valid on its own and has its guide's figures."""

from __future__ import annotations

import re
from typing import Any

import pytest

from project_root import ROOT
from shardline.config.layers import load, project_layers
from shardline.config.project import Project

SHIPPED = load(project_layers(ROOT))
FROZEN = {"mode": "frozen"}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def full(lr: float, weight_decay: float = 0.0) -> dict[str, Any]:
    return {"mode": "full", "lr": lr, "weight_decay": weight_decay}


def lora(rank: int, alpha: float, dropout: float, **changes: Any) -> dict[str, Any]:
    """At the rate that all the guides with adapters have."""
    adapter = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": None}
    return {"mode": "lora", "lr": 1e-4, "weight_decay": 0.0, **adapter, **changes}


# Of each stage: llm, projector, vision; samples or tokens a step; steps or epochs; schedule.
PUBLISHED = {
    ("showui", "sft"): ((lora(8, 64, 0.05), FROZEN, FROZEN), 16, (100, None), ("linear", 0.03)),
    ("showui_test", "sft"): ((lora(8, 64, 0.05), FROZEN, FROZEN), 4, (100, None), ("linear", 0.03)),
    ("showui_8x", "sft"): ((lora(8, 64, 0.05), FROZEN, FROZEN), 256, (100, None), ("linear", 0.03)),
    ("holo1", "sft"): (
        (lora(16, 32, 0.1, targets=PROJECTIONS), FROZEN, FROZEN),
        8,
        (None, 3),
        ("linear", 50),
    ),
    ("vase", "sft"): (
        (lora(8, 32, 0.05, weight_decay=0.1), FROZEN, FROZEN),
        16,
        (None, 2),
        ("cosine", 0.05),
    ),
    ("aurora", "projection"): ((FROZEN, full(2e-4), FROZEN), 16, (None, 1), ("cosine", 0.03)),
    ("aurora", "vision"): ((FROZEN, full(1e-4), full(1e-4)), 24, (None, 2), ("cosine", 0.03)),
    ("aurora", "language"): (
        (full(2e-5), full(2e-5), full(2e-5)),
        24,
        (None, 2),
        ("cosine", 0.03),
    ),
    ("qwenvl", "sft"): (
        (full(2e-7, 0.01), FROZEN, FROZEN),
        8 * 4 * 4 * 4096,
        (None, 3),
        ("cosine", 0.03),
    ),
    ("qwenvl_all", "sft"): (
        (full(2e-7, 0.01), full(1e-5, 0.01), full(1e-6, 0.01)),
        8 * 4 * 4 * 4096,
        (None, 3),
        ("cosine", 0.03),
    ),
}
LIMITS = {
    "showui": (256, 1344),
    "holo1": (4, 1280),
    "vase": (4, 1280),
    "qwenvl": (16, 576),
}


@pytest.mark.parametrize("name", sorted(SHIPPED.recipes))
def test_each_recipe_is_valid_on_its_own(name):
    project = Project(SHIPPED.model_copy(update={"build": [name]}), ROOT)
    assert {recipe for recipe, _ in project.train} == {name}
    for options in project.source_models.fetch.values():
        assert re.match(r"folder:|hub://.*@([0-9a-f]{40}|main)$", options["source"])


@pytest.mark.parametrize(("recipe", "stage"), PUBLISHED)
def test_stages_have_the_figures_of_their_guides(recipe, stage):
    project = Project(SHIPPED.model_copy(update={"build": [recipe]}), ROOT)
    modules, batch, length, schedule = PUBLISHED[recipe, stage]
    trained, planned = project.train[recipe, stage], project.plan[recipe, stage]
    assert trained["tune"] == dict(zip(("llm", "projector", "vision"), modules, strict=True))
    assert list(planned["global_batch"].values()) == [batch]
    assert (planned["steps"], planned["epochs"]) == length
    assert tuple(trained["schedule"].values()) == schedule
    assert trained["precision"] == "bf16"


@pytest.mark.parametrize(("recipe", "limits"), LIMITS.items())
def test_pictures_have_the_sizes_of_their_guides(recipe, limits):
    tokens = SHIPPED.recipes[recipe].tokens
    assert (tokens.min_visual_tokens, tokens.max_visual_tokens) == limits


def test_the_stages_of_aurora_start_from_one_another():
    stages = SHIPPED.recipes["aurora"].stages
    assert [(stage.name, stage.init) for stage in stages] == [
        ("projection", "base"),
        ("vision", "projection"),
        ("language", "vision"),
    ]
    assert SHIPPED.recipes["aurora"].tokens.image_side == 378
    used = {name for stage in stages for name in stage.train or []}
    used |= set(SHIPPED.recipes["aurora"].train)
    assert used == {name for name in SHIPPED.datasets if name.startswith("auroracap_")}
