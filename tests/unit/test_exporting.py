"""Exports: the adapter as it is, and the merged model with its parity gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_project import FROZEN, FULL, LORA

from shardline.errors import ConfigError, DataError, GateError
from shardline.exporting import adapter, merge, processor
from shardline.families import qwen2_vl as family
from shardline.files import file_entry, read_json, sha256_file, write_json
from shardline.training import outcome
from shardline.training.tuning import apply_tuning
from shardline.training.weights import save_weights


class Stage:
    """A finished stage whose weights were moved at random instead of trained."""

    def __init__(self, root: Path, tune: dict, dtype: torch.dtype = torch.float32) -> None:
        self.base = tiny_models.build(root / "raw/tiny")
        if dtype != torch.float32:
            model = family.load_model(self.base, dtype, "cpu")
            model.save_pretrained(self.base)
        self.lock = root / "raw/tiny.lock.json"
        write_json(self.lock, {"name": "tiny"})
        self.result = root / "checkpoints/r/s/result.json"
        self.folder = root / "models/r/s/merged"
        self.manifest = root / "models/r/s/merged.json"
        model = apply_tuning(family.load_model(self.base, torch.float32, "cpu"), family, tune)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        self.trained = model
        work = self.result.parent / "work/key"
        save_weights(model, model.state_dict(), work / outcome.UNFINISHED, dtype)
        kind = "lora" if hasattr(model, "peft_config") else "full"
        outcome.finish(
            work,
            {
                "recipe": "r",
                "name": "s",
                "key": "key",
                "kind": kind,
                "model_sha256": sha256_file(self.lock),
            },
        )
        write_json(self.result, outcome.finished(work))
        self.final = work / outcome.FINAL

    def merge(self) -> dict:
        merge.merge_model(family, self.result, self.base, self.lock, self.folder, self.manifest)
        return read_json(self.manifest)

    def export_adapter(self) -> tuple[Path, dict]:
        folder = self.folder.with_name("adapter")
        manifest = folder.with_suffix(".json")
        adapter.export_adapter(self.result, folder, manifest)
        return folder, read_json(manifest)

    def change(self, file: str, tensors: dict[str, torch.Tensor]) -> None:
        """Overwrite tensors of the final weights, keeping result.json true to them."""
        path = self.final / file
        save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
        result = read_json(self.result)
        result["weights"] = [
            file_entry(path, entry["name"]) if entry["name"].endswith(file) else entry
            for entry in result["weights"]
        ]
        write_json(self.result, result)


@pytest.fixture
def adapted(tmp_path: Path) -> Stage:
    return Stage(tmp_path, {"llm": LORA, "projector": FROZEN, "vision": LORA})


def test_a_merged_model_loads_in_stock_transformers_and_answers_alike(adapted: Stage) -> None:
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    manifest = adapted.merge()
    model, report = Qwen2VLForConditionalGeneration.from_pretrained(
        adapted.folder, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = merge.probe_logits(family, adapted.base, adapted.trained.eval())
    found = merge.probe_logits(family, adapted.folder, model)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    processor = AutoProcessor.from_pretrained(adapted.folder)
    assert processor.chat_template == family.chat_template()
    parity = manifest["parity"]
    assert parity["passed"] and parity["max_logit_difference"] < parity["tolerance"] == 1e-5
    assert parity["changed_tensors"] == 2 * 7 + 2 * 4
    names = {entry["name"] for entry in manifest["files"]}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert set(load_file(adapted.folder / "model.safetensors")) == set(
        load_file(adapted.base / "model.safetensors")
    )


def test_merging_again_gives_the_same_bytes(adapted: Stage) -> None:
    first = adapted.merge()
    (adapted.folder / "left over").touch()
    assert adapted.merge() == first


def test_an_adapter_that_does_nothing_fails_the_gate(adapted: Stage) -> None:
    name = next(
        name
        for name in load_file(adapted.final / adapter.WEIGHTS)
        if "layers.1.self_attn.v_proj.lora_B" in name
    )
    tensor = load_file(adapted.final / adapter.WEIGHTS)[name]
    adapted.change(adapter.WEIGHTS, {name: torch.zeros_like(tensor)})
    with pytest.raises(GateError, match=r"layers\.1\.self_attn\.v_proj\.weight was adapted, but"):
        adapted.merge()
    assert not adapted.folder.exists()
    with pytest.raises(GateError, match=r"lora_B\.weight is all zeros"):
        adapted.export_adapter()


def test_a_change_elsewhere_fails_the_gate(adapted: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraModel

    merge_and_unload = LoraModel.merge_and_unload

    def nudging(self: LoraModel, **options: bool) -> torch.nn.Module:
        merged = merge_and_unload(self, **options)
        merged.model.visual.merger.ln_q.bias.data[0] += 1e-6
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", nudging)
    with pytest.raises(GateError, match=r"merger\.ln_q\.bias was not adapted, but"):
        adapted.merge()


def test_an_adapter_scaled_differently_fails_the_gate(
    adapted: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    delta = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 1.5 * delta(self, name))
    with pytest.raises(GateError, match="in fp32 the merged logits differ"):
        adapted.merge()


def test_a_bf16_base_gives_a_bf16_model(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"llm": LORA, "projector": FROZEN, "vision": FROZEN}, torch.bfloat16)
    parity = stage.merge()["parity"]
    assert parity["tolerance"] == 5e-2
    assert 0 < parity["max_logit_difference"] < 5e-2
    tensors = load_file(stage.folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_full_weights_are_copied(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"llm": FULL, "projector": FROZEN, "vision": FROZEN})
    parity = stage.merge()["parity"]
    assert parity["changed_tensors"] > 0 and parity["unchanged_tensors"] > 0
    merged, final = (load_file(f / "model.safetensors") for f in (stage.folder, stage.final))
    assert merged.keys() == final.keys()
    assert all(torch.equal(merged[name], final[name]) for name in merged)
    with pytest.raises(ConfigError, match="r/s was trained in full and has no adapter"):
        stage.export_adapter()


def test_tied_weights_are_saved_once_in_any_precision(tmp_path: Path) -> None:
    tune = {"llm": FULL, "projector": FROZEN, "vision": FROZEN}
    stage = Stage(tmp_path, tune, torch.bfloat16)
    names = set(load_file(stage.final / "model.safetensors"))
    assert names == set(load_file(stage.base / "model.safetensors"))
    assert "lm_head.weight" not in names


def test_base_weights_trained_beside_an_adapter_are_merged_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"llm": LORA, "projector": FULL, "vision": FROZEN})
    stage.merge()
    expected = merge.probe_logits(family, stage.base, stage.trained.eval())
    merged = family.load_model(stage.folder, torch.float32, "cpu")
    found = merge.probe_logits(family, stage.folder, merged)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(ConfigError, match="its adapter alone is not the model"):
        stage.export_adapter()


def test_another_base_is_refused(adapted: Stage) -> None:
    write_json(adapted.lock, {"name": "other"})
    with pytest.raises(DataError, match=r"not what .* was trained from"):
        adapted.merge()


def test_an_exported_adapter_is_what_was_trained(adapted: Stage) -> None:
    from peft import PeftModel

    folder, manifest = adapted.export_adapter()
    assert manifest["base_model"] == str(adapted.base)
    assert manifest["tensors"] == 2 * (2 * 7 + 2 * 4)
    targets = json.loads((folder / adapter.CONFIG).read_bytes())["target_modules"]
    assert targets == sorted(targets)
    base = family.load_model(adapted.base, torch.float32, "cpu")
    loaded = PeftModel.from_pretrained(base, folder).eval()
    expected = merge.probe_logits(family, adapted.base, adapted.trained.eval())
    assert torch.equal(merge.probe_logits(family, adapted.base, loaded), expected)


def test_a_changed_or_cut_adapter_is_refused(adapted: Stage) -> None:
    path = adapted.final / adapter.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(GateError, match=r"not the file that .*result\.json names"):
        adapted.export_adapter()
    with pytest.raises(GateError, match="not a whole safetensors file"):
        adapter.check_tensors(path)
    path.write_bytes(b"")
    with pytest.raises(GateError, match="not a whole safetensors file"):
        adapter.check_tensors(path)


def test_empty_tensors_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2), "b": torch.empty(0, 4)}, path)
    with pytest.raises(GateError, match=r"the tensor b is empty \[0, 4\]"):
        adapter.check_tensors(path)
    save_file({}, path)
    with pytest.raises(GateError, match="has no tensors"):
        adapter.check_tensors(path)


def test_a_template_inside_the_tokenizer_config_gives_way_to_ours(adapted: Stage) -> None:
    file = adapted.base / "tokenizer_config.json"
    write_json(file, {**read_json(file), "chat_template": "{{ 'the published one' }}"})
    shutil.rmtree(adapted.folder, ignore_errors=True)
    adapted.merge()
    assert "chat_template" not in read_json(adapted.folder / "tokenizer_config.json")
    assert (adapted.folder / processor.TEMPLATE).read_text() == family.chat_template()
