"""Quantised LoRA: a base of 4 bits that only adapters change, and its exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_families
import tiny_project
import torch
from tiny_project import ADAMW, FROZEN, FULL, LORA, Project

import train_stage
from shardline.errors import ConfigError
from shardline.exporting import merge
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.hardware import Hardware
from shardline.training.journal import read_journal
from shardline.training.packs import token_losses
from shardline.training.quantising import loading_options, parameter_count
from shardline.training.requirements import check_machine, check_quantise
from shardline.training.tuning import apply_tuning
from shardline.training.tuning_log import describe
from shardline.training.weights import save_weights

CPU = torch.device("cpu")
TUNE = {"llm": LORA, "projector": FULL, "vision": LORA}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return tiny_project.build(tmp_path_factory.mktemp("project"), steps=4)


@pytest.mark.parametrize("name", list(tiny_families.FAMILIES))
def test_only_the_linear_layers_of_the_language_model_are_quantised(
    tmp_path: Path, name: str
) -> None:
    from bitsandbytes.nn import Linear4bit

    tiny, folder = tiny_families.FAMILIES[name], tmp_path / "tiny"
    tiny_families.build(name, folder, tie_word_embeddings=name == "qwen2_vl")
    base = tiny.load_model(folder, torch.float32, CPU)
    loading = loading_options(tiny, torch.float32, CPU)
    model = tiny.load_model(folder, torch.float32, CPU, **loading)
    quantised = {n for n, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    assert quantised == set(tiny.lora_targets(base, "llm"))
    layer = model.get_submodule(min(quantised))
    assert layer.compute_dtype == torch.float32 and layer.weight.quant_type == "nf4"
    assert layer.weight.quant_state.nested  # double quantisation
    sizes = {n: p.numel() for n, p in base.named_parameters()}
    assert {n: parameter_count(p) for n, p in model.named_parameters()} == sizes
    row = tiny_families.row(tiny, folder, 1)
    with torch.no_grad():
        whole, four = token_losses(base, tiny, row), token_losses(model, tiny, row)
    assert not torch.equal(whole, four)
    assert four.mean().item() == pytest.approx(whole.mean().item(), rel=0.3)


def test_a_quantised_stage_trains_and_is_merged_into_the_base_as_it_was(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tiny_project.untrained(project):
        train_stage.main(project.training(tune=TUNE, quantise="nf4"))
        said = capsys.readouterr().out
        assert "saved: an adapter of" in said and "4 bits" in said
        result = read_json(project.stage / "result.json")
        assert result["quantise"] == "nf4"
        assert result["gates"]["freeze_audit"]["moved"] == dict.fromkeys(TUNE, True)
        bare = family.load_model(project.model, torch.float32, CPU)
        adapted = apply_tuning(bare, family, TUNE)
        assert result["parameters"] == sum(p.numel() for p in adapted.parameters())

        folder, manifest = tmp_path / "merged", tmp_path / "merged.json"
        file = project.stage / "result.json"
        merge.merge_model(family, file, project.model, project.lock, folder, manifest)
        record = read_json(manifest)
        assert record["parity"]["passed"]
        assert record["trained_on"] == "the base in nf4"
        merged = family.load_model(folder, torch.float32, CPU)
        assert not any("absmax" in name for name in merged.state_dict())
        assert "quantization_config" not in read_json(folder / "config.json")


def test_going_on_repeats_the_uninterrupted_training(project: Project) -> None:
    words = project.training(tune=TUNE, quantise="nf4", precision="bf16")
    with tiny_project.untrained(project):
        project.hardware.write_text("checkpoint_every: 2\ngradient_checkpointing: true\n")
        train_stage.main(words)
        (work,) = (project.stage / "work").iterdir()
        losses = [line["metrics"]["loss"] for line in read_journal(work)]
        result = (project.stage / "result.json").read_bytes()
        (work / "final.json").unlink()
        shutil.rmtree(work / "final")
        shutil.rmtree(work / "checkpoint-4")
        train_stage.main(words)
        assert [line["metrics"]["loss"] for line in read_journal(work)] == losses
        assert (project.stage / "result.json").read_bytes() == result


def test_adapters_of_a_bf16_base_are_in_fp32(tmp_path: Path, project: Project) -> None:
    for loading in ({}, loading_options(family, torch.bfloat16, CPU)):
        model = family.load_model(project.model, torch.bfloat16, CPU, **loading)
        model = apply_tuning(model, family, {**TUNE, "projector": FROZEN})
        kinds = {p.dtype for p in model.parameters() if p.requires_grad}
        assert kinds == {torch.float32}
        frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
        assert frozen == {torch.bfloat16} | ({torch.uint8} if loading else set())
    folder = tmp_path / "final"
    save_weights(model, model.state_dict(), folder, torch.bfloat16)
    assert "saved: an adapter of" in describe(model, family, {**TUNE, "projector": FROZEN})[-1]


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"quantise = 'nf4': tune\.llm is full.*cannot be trained"
    ):
        check_quantise("nf4", {"llm": FULL, "projector": FROZEN, "vision": LORA})
    with pytest.raises(ConfigError, match="no module has an adapter"):
        check_quantise("nf4", {"llm": FROZEN, "projector": FULL, "vision": FROZEN})
    with pytest.raises(ConfigError, match=r"'int8' is not one of nf4, null"):
        check_quantise("int8", TUNE)
    check_quantise("nf4", {"llm": FROZEN, "projector": FULL, "vision": LORA})


def test_zero_3_is_refused_with_the_reason(tmp_path: Path) -> None:
    settings = tmp_path / "zero.json"
    options = {"optimizer": ADAMW, "tune": TUNE, "quantise": "nf4"}
    for stage in (2, 3):
        settings.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        hardware = Hardware(name="mine", deepspeed=str(settings))
        if stage == 2:
            check_machine(options, hardware)
            continue
        with pytest.raises(ConfigError, match=r"quantise = 'nf4': not with .*zero\.json of the"):
            check_machine(options, hardware)
        check_machine({**options, "quantise": None}, hardware)
