"""Faster steps: the same losses as plain ones, compiled once, and refused where they do not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import tiny_models
import tiny_project
import torch
from tiny_project import FROZEN, LORA, Project
from torch._dynamo.utils import counters

import train_stage
from shardline import varlen
from shardline.errors import ConfigError, GateError
from shardline.families import qwen2_vl as family
from shardline.hardware import Hardware, load_hardware
from shardline.loader import PlanDataset
from shardline.training import gates
from shardline.training.journal import read_journal
from shardline.training.packs import split, token_losses
from shardline.training.speed import (
    compile_blocks,
    keep_half,
    prepare_speed,
    take_liger,
)
from shardline.training.tuning import apply_tuning

TUNE = {"llm": {**LORA, "dropout": 0.0}, "projector": FROZEN, "vision": FROZEN}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    made = tiny_project.build(root, steps=5, global_batch={"tokens": 600}, fixed_shape=True)
    made.hardware.write_text("device: cpu\nmicro_batch: 2\n")
    return made


def _rows(project: Project, **options: bool) -> list[dict]:
    data = PlanDataset(
        project.results, project.plan, project.parquet, family, micro_batch=2, **options
    )
    return [data[item] for item in range(5)]


def test_steady_rows_have_one_shape_and_lose_nothing(project: Project) -> None:
    plain, steady = _rows(project), _rows(project, steady=True)
    longest = max(max(row["lengths"]) for row in plain)
    for row, same in zip(plain, steady, strict=True):
        bounds, cut = row["cu_seq_lens_q"].tolist(), same["cu_seq_lens_q"].tolist()
        samples = len(row["samples"])
        assert cut[: samples + 1] == bounds[: samples + 1]
        assert cut[-1] == bounds[-1] == 600
        assert same["cu_seq_lens_q"].diff().max() <= same["max_length_q"] == longest
        assert torch.equal(same["input_ids"], row["input_ids"])
    assert len({len(row["cu_seq_lens_q"]) for row in steady}) == 1
    assert len({len(row["cu_seq_lens_q"]) for row in plain}) > 1


def test_padding_in_pieces_changes_no_loss(project: Project) -> None:
    model = family.load_model(project.model, torch.float32, "cpu")
    for plain, steady in zip(_rows(project), _rows(project, steady=True), strict=True):
        with torch.no_grad():
            losses = [token_losses(model, family, row) for row in (plain, steady)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


def _steps(project: Project, prepare: Callable[[torch.nn.Module], None]) -> list[float]:
    """Losses of five steps; ``graphs`` of `counters` are compiled in the first two."""
    torch.manual_seed(0)
    model = apply_tuning(family.load_model(project.model, torch.float32, "cpu"), family, TUNE)
    prepare(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses, graphs = [], []
    for row in _rows(project, steady=True):
        loss = token_losses(model.train(), family, row).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[1:] == graphs[1:2] * 4
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False])
def test_compiled_blocks_train_alike_and_are_compiled_once(project: Project, fixed: bool) -> None:
    torch._dynamo.reset()
    counters.clear()
    expected = _steps(project, lambda model: None)
    assert not counters["stats"]["unique_graphs"]
    found = _steps(project, lambda model: compile_blocks(model, fixed))
    assert counters["stats"]["unique_graphs"] > 0
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]


@pytest.mark.slow
def test_a_training_with_compiled_blocks_is_the_training_without(project: Project) -> None:
    losses = {}
    for kind in ("none", "blocks"):
        with tiny_project.untrained(project):
            project.hardware.write_text(f"device: cpu\nmicro_batch: 2\ncompile: {kind}\n")
            train_stage.main(project.training(tune=TUNE))
            work = next((project.stage / "work").iterdir())
            losses[kind] = [line["metrics"]["loss"] for line in read_journal(work)]
    assert losses["blocks"] == pytest.approx(losses["none"], rel=1e-5)


def test_adapters_read_half_precision_as_it_is(project: Project) -> None:
    model = apply_tuning(family.load_model(project.model, torch.bfloat16, "cpu"), family, TUNE)
    row = _rows(project)[0]
    losses = []
    for change in (lambda _: None, keep_half):
        change(model)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(token_losses(model, family, row).sum())
    assert losses[0].item() == losses[1].item()
    layer = model.base_model.model.model.language_model.layers[0].self_attn.q_proj
    assert not layer.cast_input_dtype_enabled
    assert layer.lora_A["default"].weight.dtype == torch.float32


def test_kernels_that_change_the_result_are_refused(project: Project) -> None:
    model = family.load_model(project.model, torch.float32, "cpu")
    samples = split(_rows(project)[0], family)[:3]

    def wrong(probe: torch.nn.Module) -> None:
        for name, layer in probe.named_modules():
            if name.endswith("input_layernorm"):
                layer.variance_epsilon = 0.5

    assert gates.kernel_parity(model, family, samples, lambda probe: None)["max_difference"] == 0
    with pytest.raises(GateError, match="kernels: none"):
        gates.kernel_parity(model, family, samples, wrong)


def test_liger_replaces_norms_and_feed_forwards_of_the_language_model(tmp_path: Path) -> None:
    model = family.load_model(tiny_models.build(tmp_path / "m"), torch.float32, "cpu")
    take_liger(model)
    layer = model.model.language_model.layers[0]
    assert "Fused" in type(layer.mlp).__name__
    assert "Fused" in type(layer.input_layernorm).__name__
    assert "Fused" in type(model.model.language_model.norm).__name__
    assert not any("Fused" in type(part).__name__ for part in model.model.visual.modules())


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ({"kernels": "liger"}, "kernels: liger runs on a GPU only"),
        ({"kernels": "liger", "compile": "blocks", "device": "cuda"}, "one of them"),
        ({"compile": "blocks", "deepspeed": "zero3.json"}, "ZeRO stage 3 of .*zero3.json"),
        ({"device": "cuda", "attention": "flash_attention_2"}, "needs the package flash-attn"),
        ({"device": "cuda", "attention": "flash_attention_3"}, "needs the package flash-attn-3"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, preset: dict, told: str) -> None:
    (tmp_path / "zero3.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    if "deepspeed" in preset:
        preset = {**preset, "deepspeed": str(tmp_path / preset["deepspeed"])}
    with pytest.raises(ConfigError, match=told):
        prepare_speed(Hardware(name="h", **preset))


@pytest.mark.parametrize("key", ["compile", "kernels", "attention"])
def test_a_value_that_is_not_known_is_refused(tmp_path: Path, key: str) -> None:
    preset = tmp_path / "h.yaml"
    preset.write_text(f"{key}: fast\n")
    with pytest.raises(ConfigError, match=f"{key}: 'fast' is not allowed; one of"):
        load_hardware(preset)


def test_a_flash_attention_package_is_called_with_the_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A package of ours stands for one that needs a GPU to be imported."""
    calls = []

    def attend(*tensors: torch.Tensor | int, **options: object) -> torch.Tensor:
        calls.append((tensors[3:], options))
        return tensors[0]

    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = attend
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    query, bounds = torch.ones(4, 2, 8), torch.tensor([0, 4], dtype=torch.int32)
    try:
        varlen.choose("flash_attention_2")
        varlen.attend(query, query, query, bounds, 4, 0.5, causal=True)
    finally:
        varlen.choose("auto")
    assert calls == [((bounds, bounds, 4, 4), {"softmax_scale": 0.5, "causal": True})]
