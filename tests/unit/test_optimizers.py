"""The optimisers of a recipe: their options, their rates by module, and going on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import tiny_families
import torch
from tiny_project import ADAMW, FULL
from tiny_training import stage, train

from project_root import ROOT
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.errors import ConfigError
from shardline.hardware import Hardware
from shardline.training.model import tuned_model
from shardline.training.optimizers import OPTIMIZERS, complete_options
from shardline.training.requirements import check_machine
from shardline.training.tuning import MODULES

FAMILY = tiny_families.FAMILIES["qwen2_vl"]
HERE = [name for name, optimizer in OPTIMIZERS.items() if not optimizer.paged]
CPU = Hardware(name="cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_families.build("qwen2_vl", folder, tie_word_embeddings=False)
    return folder, [tiny_families.row(FAMILY, folder, seed) for seed in (1, 2)]


def _options(name: str) -> dict:
    return {"name": name, "clip": None, **complete_options(name, {})}


def _moved(built: tuple, work: Path, name: str, rates: tuple[float, ...]) -> dict[str, float]:
    folder, rows = built
    tune = {
        module: {**FULL, "lr": rate, "weight_decay": 0.0}
        for module, rate in zip(MODULES, rates, strict=True)
    }
    task = stage(work, folder, tune, optimizer=_options(name))
    model = tuned_model(task, FAMILY, torch.device("cpu"))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    trainer = train(task, FAMILY, rows, 1, model=model)
    found = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert found == {
        f"{module}/{part}": rate
        for module, rate in zip(MODULES, rates, strict=True)
        for part in ("weights", "rest")
    }
    change = dict.fromkeys(MODULES, 0.0)
    for key, value in model.named_parameters():
        change[FAMILY.module_of(key)] += (value.detach() - before[key]).abs().sum().item()
    return change


@pytest.mark.parametrize("name", HERE)
def test_a_module_moves_by_its_own_rate(built: tuple, tmp_path: Path, name: str) -> None:
    first = _moved(built, tmp_path / "1", name, (1e-3, 1e-3, 1e-3))
    other = _moved(built, tmp_path / "2", name, (1e-3, 4e-3, 5e-4))
    ratios = {module: other[module] / first[module] for module in MODULES}
    assert ratios == pytest.approx({"llm": 1, "projector": 4, "vision": 0.5}, rel=2e-2)


@pytest.mark.parametrize("name", HERE)
def test_going_on_repeats_the_uninterrupted_training(
    built: tuple, tmp_path: Path, name: str
) -> None:
    folder, rows = built
    tune = {module: {**FULL, "lr": 1e-3} for module in MODULES}
    options = _options(name) | ({"momentum": 0.9} if name == "sgd" else {})
    task = stage(tmp_path, folder, tune, checkpoint_every=2, optimizer=options)
    whole = train(task, FAMILY, rows, 4)
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = train(task, FAMILY, rows, 4, going_on=True)
    assert again.state.global_step == 4
    for (key, value), (_, expected) in zip(
        again.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        assert torch.equal(value, expected), key


def test_adafactor_takes_the_rate_that_it_is_given(built: tuple, tmp_path: Path) -> None:
    folder, rows = built
    tune = dict.fromkeys(MODULES, FULL)
    trainer = train(stage(tmp_path, folder, tune, optimizer=_options("adafactor")), FAMILY, rows, 1)
    for group in trainer.optimizer.param_groups:
        assert group["relative_step"] is group["scale_parameter"] is False


def test_each_reads_its_own_options() -> None:
    assert complete_options("adamw", {}) == {"betas": [0.9, 0.999], "eps": 1e-8}
    assert complete_options("lion", {"betas": None}) == {"betas": [0.9, 0.99]}
    assert complete_options("sgd", {"momentum": 0.9}) == {"momentum": 0.9}
    assert complete_options("adafactor", {}) == {}
    with pytest.raises(
        ConfigError, match=r"optimizer\.betas = .* sgd does not read it; .*momentum"
    ):
        complete_options("sgd", {"betas": [0.9, 0.95]})
    with pytest.raises(ConfigError, match=r"'adagrad' is not one of adamw, adamw_8bit, "):
        complete_options("adagrad", {})


def _project(optimizer: dict) -> dict:
    mine = {f"stages.sft.optimizer.{key}": value for key, value in optimizer.items()}
    change = {"build": ["mine"], "recipes": {"mine": {"extends": "demo", **mine}}}
    layers = [*project_layers(ROOT), Layer("mine.yaml", change)]
    return Project(load(layers), ROOT).train["mine", "sft"]["optimizer"]


def test_a_recipe_names_its_optimiser() -> None:
    assert _project({}) == {**ADAMW, "betas": [0.9, 0.95]}
    changed = _project({"name": "adafactor", "betas": None})
    assert changed == {"name": "adafactor", "clip": 1.0}
    with pytest.raises(ConfigError, match=r"optimizer.*adafactor does not read it"):
        _project({"name": "adafactor"})
    with pytest.raises(ConfigError, match=r"optimizer\.name.*'adamw', 'adamw_8bit'"):
        _project({"name": "adam"})


def test_what_is_missing_is_said_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(name: str) -> dict:
        return {"optimizer": {"name": name}, "tune": {}}

    check_machine(options("adamw_8bit"), CPU)
    with pytest.raises(ConfigError, match=r"device: cpu; allowed there: adamw_8bit"):
        check_machine(options("paged_adamw_8bit"), CPU)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    check_machine(options("adamw"), CPU)
    with pytest.raises(ConfigError, match="needs the package bitsandbytes, which is not installed"):
        check_machine(options("lion_8bit"), CPU)
