"""Stages that start from what other programs made: a LoRA adapter, a model, a checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file

import apply_adapter
import fetch_model
from project_root import ROOT
from raw_datasets import command_line
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.errors import ConfigError, DataError
from shardline.exporting.adapter import CONFIG, WEIGHTS
from shardline.exporting.merge import probe_logits
from shardline.files import read_json
from shardline.locks import verify
from shardline.upstream import Upstream

OLD = {
    "qwen2_vl": [(r"model\.language_model\.", "model."), (r"model\.visual\.", "visual.")],
    "llava": [
        (r"model\.language_model\.", "language_model.model."),
        (r"model\.vision_tower\.", "vision_tower."),
        (r"model\.multi_modal_projector\.", "multi_modal_projector."),
        (r"lm_head\.", "language_model.lm_head."),
    ],
}
OLD["qwen2_5_vl"] = OLD["qwen2_vl"]
TARGETS = {
    "qwen2_vl": ["q_proj", "up_proj", "qkv", "merger.mlp.0"],
    "qwen2_5_vl": ["q_proj", "up_proj", "qkv", "lm_head"],
    "llava": ["q_proj", "up_proj", "linear_1", "lm_head"],
}


class Foreign:
    """A base with its lock, and an adapter for it by PEFT alone, its weights drawn at random."""

    def __init__(self, root: Path, name: str, **options: object) -> None:
        from peft import LoraConfig, get_peft_model

        self.name, self.family, self.root = name, tiny_families.FAMILIES[name], root
        self.source = root / "source/base"
        tiny_families.build(name, self.source, tie_word_embeddings=name == "qwen2_vl")
        base = self.family.load_model(self.source, torch.float32, "cpu")
        config = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[name], **options}
        self.model = get_peft_model(base, LoraConfig(**config)).eval()
        generator = torch.Generator().manual_seed(1)
        for key, parameter in self.model.named_parameters():
            if ".lora_" in key or ".modules_to_save." in key:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        self.adapter = root / "source/lora"
        self.model.save_pretrained(self.adapter)

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.adapter / WEIGHTS)

    def rename(self) -> None:
        """The names that transformers had before 4.52."""

        def old(key: str) -> str:
            for new, before in OLD[self.name]:
                key = re.sub(rf"^base_model\.model\.{new}", f"base_model.model.{before}", key)
            return key

        save_file(
            {old(key): value for key, value in self.tensors().items()}, self.adapter / WEIGHTS
        )

    def fetch(self, folder: Path, name: str, **options: object) -> Path:
        lock = self.root / f"raw/models/{name}.lock.json"
        fetch_model.main(
            command_line(
                model=name,
                options=json.dumps({"source": f"folder:{folder}", **options}),
                raw=self.root / "raw/models" / name,
                lock=lock,
                files=self.root / f"raw/models/{name}.files.tsv",
            )
        )
        return lock

    def apply(self) -> Path:
        raw = self.root / "raw/models/both"
        apply_adapter.main(
            command_line(
                model="both",
                options=json.dumps({"family": self.name}),
                raw=raw,
                lock=self.root / "raw/models/both.lock.json",
                files=self.root / "raw/models/both.files.tsv",
                threads=1,
                **{
                    "base-lock": self.fetch(self.source, "base"),
                    "adapter-lock": self.fetch(self.adapter, "lora", adapter=True),
                },
            )
        )
        return raw


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
@pytest.mark.parametrize(
    "name", ["qwen2_vl", pytest.param("qwen2_5_vl", marks=pytest.mark.slow), "llava"]
)
def test_base_and_adapter_become_one_model(tmp_path: Path, name: str, old: bool) -> None:
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}}
    foreign = Foreign(tmp_path, name, **patterns, use_rslora=old)
    expected = probe_logits(foreign.family, foreign.source, foreign.model)
    if old:
        names = set(foreign.tensors())
        foreign.rename()
        assert len(names & set(foreign.tensors())) <= 4  # of an lm_head
    folder = foreign.apply()
    merged = foreign.family.load_model(folder, torch.float32, "cpu").eval()
    found = probe_logits(foreign.family, folder, merged)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    base = foreign.family.load_model(foreign.source, torch.float32, "cpu").eval()
    assert (probe_logits(foreign.family, folder, base) - expected).abs().max() > 0.01
    lock = tmp_path / "raw/models/both.lock.json"
    assert verify(lock, folder) == []
    assert read_json(lock)["source"].startswith("adapter+folder:")
    before = lock.read_bytes()
    foreign.apply()
    assert lock.read_bytes() == before


def test_a_layer_saved_whole_beside_the_adapter_lands_too(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "llava", target_modules=["q_proj"], modules_to_save=["lm_head"])
    folder = foreign.apply()
    merged = foreign.family.load_model(folder, torch.float32, "cpu").eval()
    expected = probe_logits(foreign.family, foreign.source, foreign.model)
    found = probe_logits(foreign.family, folder, merged)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_tensor_without_a_place_is_an_error(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "qwen2_vl")
    whole = foreign.tensors()
    key = next(key for key in whole if "layers.1.mlp.up_proj.lora_B" in key)

    def changed(**changes: torch.Tensor | None) -> None:
        tensors = {k: v for k, v in {**whole, **changes}.items() if v is not None}
        save_file(tensors, foreign.adapter / WEIGHTS)

    changed(**{key.replace("layers.1.", "layers.7."): whole[key].clone()})
    with pytest.raises(DataError, match=r"layers\.7\.mlp\.up_proj, and the base has no such layer"):
        foreign.apply()
    changed(**{key: None})
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj: has no lora_B"):
        foreign.apply()
    changed(**{key: whole[key][:-1].clone()})
    with pytest.raises(DataError, match=r"95 x 4 times 4 x 64, and the layer of the base 96 x 64"):
        foreign.apply()
    changed(**{k: torch.zeros_like(v) for k, v in whole.items() if ".lora_B." in k})
    with pytest.raises(DataError, match="its adapter changes nothing"):
        foreign.apply()
    assert not (tmp_path / "raw/models/both.lock.json").exists()
    assert not (tmp_path / "raw/models/both").exists()


def test_an_adapter_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "qwen2_vl", target_modules=["lm_head"])
    with pytest.raises(DataError, match="ties its embeddings and its output head"):
        foreign.apply()


def test_what_is_no_plain_lora_is_refused(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "qwen2_vl", target_modules=["q_proj"])
    config = read_json(foreign.adapter / CONFIG)
    for change, said in (
        ({"peft_type": "IA3"}, "allowed: LORA"),
        ({"bias": "all"}, "bias is 'all'"),
    ):
        (foreign.adapter / CONFIG).write_text(json.dumps({**config, **change}))
        with pytest.raises(DataError, match=said):
            foreign.apply()


def test_what_is_fetched_is_told_apart(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "qwen2_vl", target_modules=["q_proj"])
    with pytest.raises(DataError, match=r"it is a LoRA adapter.*init: adapter\+folder:.*/lora"):
        foreign.fetch(foreign.adapter, "x")
    with pytest.raises(DataError, match=r"it is no LoRA adapter; a whole model is written as fold"):
        foreign.fetch(foreign.source, "y", adapter=True)
    (foreign.source / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"has no tokenizer\.json; save the tokenizer"):
        foreign.fetch(foreign.source, "v")
    (foreign.adapter / WEIGHTS).rename(foreign.adapter / "adapter_model.bin")
    with pytest.raises(DataError, match="pickled weights are not loaded"):
        foreign.fetch(foreign.adapter, "z", adapter=True)
    (foreign.source / "model.safetensors").unlink()
    (foreign.source / "global_step3").mkdir()
    (foreign.source / "global_step3/mp_rank_00_model_states.pt").write_bytes(b"a pickle")
    with pytest.raises(DataError, match=r"is a DeepSpeed checkpoint.*zero_to_fp32\.py"):
        foreign.fetch(foreign.source, "w")


def test_a_trainers_checkpoint_is_a_model_whose_pickles_are_left_alone(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path, "qwen2_vl", target_modules=["q_proj"])
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (foreign.source / name).write_bytes(b"not to be unpickled")
    lock = foreign.fetch(foreign.source, "checkpoint")
    assert read_json(lock)["files"] > 4
    model = foreign.family.load_model(tmp_path / "raw/models/checkpoint", torch.float32, "cpu")
    base = foreign.model.get_base_model()
    assert torch.equal(
        model.model.visual.blocks[0].mlp.fc1.weight, base.model.visual.blocks[0].mlp.fc1.weight
    )


def _project(init: str) -> Project:
    change = {"build": ["mine"], "recipes": {"mine": {"extends": "demo", "stages.sft.init": init}}}
    return Project(load([*project_layers(ROOT), Layer("mine.yaml", change)]), ROOT)


def test_a_recipe_starts_a_stage_from_an_adapter(tmp_path: Path) -> None:
    project = _project(f"adapter+folder:{tmp_path}")
    kind, name = project.initial_model("mine", "sft")
    models = project.source_models
    base, adapter = models.adapted_from[name]
    assert kind == "model" and base == project.model_of["mine", "base"]
    assert models.fetch[(adapter,)] == {"source": f"folder:{tmp_path}", "adapter": True}
    assert models.apply_adapter == {(name,): {"family": "qwen2_vl", "plugins": []}}
    assert adapter in project.folder_digests
    upstream = Upstream(project, None, None)
    wildcards = type("Wildcards", (), {"recipe": "mine", "stage": "sft", "model": name})
    assert upstream.initial_model(wildcards) == f"results/raw/models/{name}.lock.json"
    assert upstream.base_of_adapter(wildcards) == f"results/raw/models/{base}.lock.json"
    assert upstream.adapter(wildcards) == f"results/raw/models/{adapter}.lock.json"
    assert _project(f"folder:{tmp_path}").source_models.apply_adapter == {}
    with pytest.raises(
        ConfigError, match=r"init = 'adapter\+/x'.*with adapter\+ in front of these"
    ):
        _project("adapter+/x")
