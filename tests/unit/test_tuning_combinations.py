"""Each of the 26 ways to tune three modules: exactly what is declared moves, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny_families
import torch
from tiny_project import FROZEN, FULL, LORA
from tiny_training import stage, train

from shardline.errors import ConfigError
from shardline.training import gates
from shardline.training.model import tuned_model
from shardline.training.tuning import MODULES, apply_tuning, base_name, is_adapter
from shardline.training.tuning_log import describe

HOW = {"frozen": FROZEN, "lora": {**LORA, "dropout": 0.0}, "full": {**FULL, "lr": 5e-3}}
ALL = [modes for modes in itertools.product(HOW, repeat=3) if set(modes) != {"frozen"}]
SOME = [modes for modes in ALL if modes.count("frozen") == 2 and "full" in modes] + [
    ("lora", "full", "lora"),
]
CASES = [
    *(("qwen2_vl", modes) for modes in ALL),
    *(("qwen2_5_vl", modes) for modes in SOME),
    *(("llava", modes) for modes in SOME),
]
TIED = {"qwen2_vl": True, "qwen2_5_vl": False, "llava": False}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of each family: its model's folder and two rows."""
    found = {}
    for name, family in tiny_families.FAMILIES.items():
        folder = tmp_path_factory.mktemp(name) / "tiny"
        tiny_families.build(name, folder, tie_word_embeddings=TIED[name])
        found[name] = folder, [tiny_families.row(family, folder, seed) for seed in (1, 2)]
    return found


def _values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_there_are_26() -> None:
    assert len(ALL) == len(set(ALL)) == 26


@pytest.mark.parametrize(
    ("name", "modes"), CASES, ids=[f"{name}-{'-'.join(modes)}" for name, modes in CASES]
)
def test_exactly_the_declared_tensors_move(
    built: dict, tmp_path: Path, name: str, modes: tuple[str, ...]
) -> None:
    family, (folder, rows) = tiny_families.FAMILIES[name], built[name]
    tune = {module: HOW[mode] for module, mode in zip(MODULES, modes, strict=True)}
    task = stage(tmp_path, folder, tune)
    model = tuned_model(task, family, torch.device("cpu"))
    before, digests = _values(model), gates.parameter_digests(model, family)
    train(task, family, rows, 2, model=model)
    audit = gates.freeze_audit(digests, gates.parameter_digests(model, family), tune)
    assert audit["moved"] == {module: tune[module] != FROZEN for module in MODULES}

    unused = ("encoder.layers.2.", ".post_layernorm.") if name == "llava" else ()
    for parameter, value in _values(model).items():
        mode = tune[family.module_of(parameter)]["mode"]
        declared = mode == ("lora" if is_adapter(parameter) else "full")
        if any(part in base_name(parameter) for part in unused):
            declared = False
        assert torch.equal(value, before[parameter]) != declared, parameter
    adapted = {base_name(n).split(".lora_")[0] for n in before if is_adapter(n)}
    expected = {
        layer
        for module in MODULES
        if tune[module]["mode"] == "lora"
        for layer in family.lora_targets(family.load_model(folder, torch.float32, "cpu"), module)
        if not any(part in f"{layer}." for part in unused)
    }
    assert adapted == expected


def test_nothing_to_tune_is_a_config_error(built: dict) -> None:
    folder, _ = built["qwen2_vl"]
    family = tiny_families.FAMILIES["qwen2_vl"]
    model = family.load_model(folder, torch.float32, "cpu")
    with pytest.raises(ConfigError, match="nothing to train"):
        apply_tuning(model, family, dict.fromkeys(MODULES, FROZEN))


def test_an_adapter_begins_as_nothing_and_its_second_matrix_moves_first(
    built: dict, tmp_path: Path
) -> None:
    folder, rows = built["qwen2_vl"]
    family = tiny_families.FAMILIES["qwen2_vl"]
    task = stage(tmp_path, folder, {"llm": HOW["lora"], "projector": FROZEN, "vision": FROZEN})
    model = tuned_model(task, family, torch.device("cpu"))
    before = _values(model)
    train(task, family, rows, 1, model=model)
    for name, value in _values(model).items():
        if ".lora_B." in name:
            assert not before[name].any() and value.any(), name
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_the_log_says_how_the_output_head_is_handled(built: dict, name: str) -> None:
    family, (folder, _) = tiny_families.FAMILIES[name], built[name]
    what = "one tied matrix" if TIED[name] else "two matrices"
    for mode, how in (
        ("full", "trained once, as one parameter" if TIED[name] else "both trained with the llm"),
        ("lora", "not adapted and left as they are"),
        ("frozen", "frozen with the llm"),
    ):
        tune = {"llm": HOW[mode], "projector": HOW["full"], "vision": FROZEN}
        model = apply_tuning(family.load_model(folder, torch.float32, "cpu"), family, tune)
        lines = describe(model, family, tune)
        assert f"embed_tokens and lm_head: {what}, {how}" in lines
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert ("lm_head.weight" in trained) == (mode == "full" and not TIED[name])
        assert any("embed_tokens" in n for n in trained) == (mode == "full")
