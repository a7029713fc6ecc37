"""A stage that starts from another program's adapter, and one with a 4-bit base, by Snakemake."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from shardline.files import read_json
from unit import tiny_models
from workflow.workspace import MINI, Workspace

OLD = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"  # before 4.52


def write_adapter(folder, seed: int) -> None:
    """A LoRA adapter of rank 2 for both blocks of the tiny model."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (2, 64), "B": (64, 2)}
    save_file(
        {
            OLD.format(layer, part): torch.randn(shape, generator=generator)
            for layer in range(2)
            for part, shape in shapes.items()
        },
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}'
    )


@pytest.mark.slow
def test_an_adapter_is_merged_once_and_anew_when_it_changes(tmp_path):
    base = tiny_models.build(tmp_path / "base")
    adapter = tmp_path / "lora"
    write_adapter(adapter, 1)
    workspace = Workspace.create(tmp_path / "project")
    config = copy.deepcopy(MINI)
    config["recipes"]["mini"] |= {
        "base": f"folder:{base}",
        "evaluate": [],
        "stages.sft.init": f"adapter+folder:{adapter}",
        "stages.sft.optimizer.name": "adamw_8bit",
        "stages.adapt.quantise": "nf4",
        "stages.adapt.tune.projector": {"full": True, "lr": 1e-3},
        "exports": ["merged"],
    }
    workspace.write_config(config)
    run = workspace.snakemake("models")
    assert run.executed["fetch_model"] == 2 and run.executed["apply_adapter"] == 1
    (lock,) = workspace.path("results/raw/models").glob("lora-*-on-*.lock.json")
    weights = lock.with_name(lock.name.removesuffix(".lock.json")) / "model.safetensors"
    before, name = load_file(base / "model.safetensors"), "model.layers.0.self_attn.q_proj.weight"
    found = load_file(adapter / "adapter_model.safetensors")
    delta = 2 * found[OLD.format(0, "B")] @ found[OLD.format(0, "A")]
    torch.testing.assert_close(load_file(weights)[name], before[name] + delta)
    merged = read_json(workspace.path("results/models/mini/adapt/merged.json"))
    assert merged["trained_on"] == "the base in nf4"
    assert "Nothing to be done" in workspace.dry_run("models").output

    write_adapter(adapter, 2)
    (adapter / "README.md").write_text("now with a card")
    run = workspace.dry_run("models")
    assert run.jobs["apply_adapter"] == 1 and run.jobs["train_stage"] == 2
