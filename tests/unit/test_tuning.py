"""What is trained: modules, LoRA targets, learning rates, weight decay."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_families
import tiny_models
import torch
from tiny_project import FROZEN, FULL, LORA

from shardline.errors import ConfigError
from shardline.families import qwen2_vl as family
from shardline.training import tuning
from shardline.training.tuning_log import describe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("model") / "tiny")


def _tuned(folder: Path, **tune: dict) -> tuple[torch.nn.Module, dict]:
    tune = {"llm": FROZEN, "projector": FROZEN, "vision": FROZEN, **tune}
    model = family.load_model(folder, torch.float32, "cpu")
    return tuning.apply_tuning(model, family, tune), tune


def _trained(model: torch.nn.Module) -> set[str]:
    return {
        family.module_of(name) + (" lora" if tuning.is_adapter(name) else "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ({"llm": FULL}, {"llm"}),
        ({"projector": FULL}, {"projector"}),
        ({"llm": LORA}, {"llm lora"}),
        ({"vision": LORA}, {"vision lora"}),
        ({"llm": LORA, "projector": FULL}, {"llm lora", "projector"}),
        (
            {"llm": LORA, "projector": LORA, "vision": FULL},
            {"llm lora", "projector lora", "vision"},
        ),
    ],
)
def test_exactly_the_named_modules_are_trained(folder: Path, tune: dict, expected: set) -> None:
    model, _ = _tuned(folder, **tune)
    assert _trained(model) == expected


def test_adapted_layers_are_all_linear_ones_of_the_module_and_no_embedding(folder: Path) -> None:
    model, tune = _tuned(folder, llm=LORA)
    adapted = {
        tuning.base_name(name).split(".lora_A.")[0]
        for name, _ in model.named_parameters()
        if ".lora_A." in name
    }
    assert len(adapted) == 2 * 7
    assert not any("visual" in name or "lm_head" in name or "embed" in name for name in adapted)
    lines = describe(model, family, tune)
    assert "LoRA: model.language_model.layers.*.self_attn.q_proj in 2 block(s), rank 4" in lines
    assert lines[-1] == "saved: an adapter of 28 tensors"
    assert len([line for line in lines if line.startswith("LoRA")]) == 7


def test_targets_pick_layers_by_the_end_of_their_names(folder: Path) -> None:
    model, _ = _tuned(folder, llm={**LORA, "targets": ["q_proj", "self_attn.v_proj"]})
    names = {
        name.split(".lora_A.")[0].split(".")[-1]
        for name, _ in model.named_parameters()
        if ".lora_A." in name
    }
    assert names == {"q_proj", "v_proj"}


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "model.lm_head"])
def test_the_output_head_is_no_target(folder: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="share its weights"):
        _tuned(folder, llm={**LORA, "targets": [target]})


def test_a_target_of_another_module_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'qkv' is no linear layer of llm; .*q_proj"):
        _tuned(folder, llm={**LORA, "targets": ["qkv"]})


def test_nothing_to_train_and_unknown_modes_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        _tuned(folder)
    with pytest.raises(ConfigError, match=r"tune\.llm: 'qlora' is not one of"):
        _tuned(folder, llm={**LORA, "mode": "qlora"})


def test_ranks_and_scales_by_module_but_one_dropout(folder: Path) -> None:
    model, _ = _tuned(folder, llm=LORA, vision={**LORA, "rank": 2, "alpha": 6})
    ranks, scales = {}, {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "scaling"):
            module = family.module_of(name)
            ranks.setdefault(module, set()).add(layer.r["default"])
            scales.setdefault(module, set()).add(layer.scaling["default"])
    assert ranks == {"llm": {4}, "vision": {2}}
    assert scales == {"llm": {2.0}, "vision": {3.0}}
    with pytest.raises(ConfigError, match="one LoRA dropout"):
        _tuned(folder, llm=LORA, vision={**LORA, "dropout": 0.0})


def test_groups_have_their_rates_and_norms_and_biases_no_decay(folder: Path) -> None:
    model, tune = _tuned(folder, llm=FULL, projector={**FULL, "lr": 5e-4, "weight_decay": 0.1})
    groups = {group["name"]: group for group in tuning.parameter_groups(model, family, tune)}
    assert set(groups) == {"llm/weights", "llm/rest", "projector/weights", "projector/rest"}
    assert groups["llm/weights"]["weight_decay"] == 0.01
    assert groups["projector/weights"]["weight_decay"] == 0.1
    assert groups["projector/weights"]["lr"] == groups["projector/rest"]["lr"] == 5e-4
    for name, group in groups.items():
        flat = name.endswith("rest")
        assert group["weight_decay"] == 0 or not flat
        assert all((parameter.ndim == 1) == flat for parameter in group["params"])
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    assert sum(len(group["params"]) for group in groups.values()) == trained


@pytest.mark.parametrize("name", list(tiny_families.FAMILIES))
def test_norms_and_biases_are_what_has_one_dimension(tmp_path: Path, name: str) -> None:
    tiny = tiny_families.FAMILIES[name]
    model = tiny.load_model(tiny_families.build(name, tmp_path / "tiny"), torch.float32, "cpu")
    tune = dict.fromkeys(tuning.MODULES, FULL)
    groups = tuning.parameter_groups(tuning.apply_tuning(model, tiny, tune), tiny, tune)
    place = {
        id(parameter): group["name"].split("/")[1]
        for group in groups
        for parameter in group["params"]
    }
    assert len(place) == sum(len(group["params"]) for group in groups)  # none is in two
    kinds = {"norm": set(), "bias": set(), "embedding": set(), "weight": set()}
    for owner in model.modules():
        for short, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in place:
                continue
            kind = type(owner).__name__.lower()
            found = "norm" if "norm" in kind else "bias" if short == "bias" else "weight"
            if kind == "embedding":
                found = "embedding"
            if short == "class_embedding":  # one vector, CLIP's only parameter of no layer
                found = "bias"
            kinds[found].add(place[id(parameter)])
    assert kinds == {
        "norm": {"rest"},
        "bias": {"rest"},
        "embedding": {"weights"},
        "weight": {"weights"},
    }
