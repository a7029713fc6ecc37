"""DeepSpeed's config, what it compiles, and trainings with it that are killed."""

from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path

import pytest

from project_root import ROOT
from shardline import build_tools
from shardline.errors import ConfigError
from shardline.files import write_json
from shardline.hardware import Hardware
from shardline.training import checkpoints, extensions
from shardline.training.zero_config import deepspeed_config, offloads, read_json_config, zero_stage

OPTIONS = {
    "precision": "bf16",
    "tune": {"llm": {"lr": 1e-4}, "projector": {"lr": 0.0}, "vision": {"lr": 0.0}},
    "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0},
    "schedule": {"name": "cosine", "warmup": 0.03},
}
SHIPPED = sorted((ROOT / "config/deepspeed").glob("*.json"))


def made(path: Path, **options) -> dict:
    """The config of two ranks with four forwards of three packs."""
    hardware = Hardware(name="mine", ranks=2, micro_batch=3, deepspeed=str(path))
    return deepspeed_config(hardware, {**OPTIONS, **options}, 4, 3)


def written(folder: Path, **config) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **config}))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_configs_of_the_project_leave_to_others_what_others_own(path: Path) -> None:
    for precision, half in (("bf16", True), ("fp32", False)):
        config = made(path, precision=precision)
        assert config["bf16"]["enabled"] is half
        assert config["gradient_clipping"] == 1.0
        assert config["gradient_accumulation_steps"] == 4
        assert config["train_micro_batch_size_per_gpu"] == 3
        assert config["train_batch_size"] == 24
        assert "optimizer" not in config and "scheduler" not in config
    assert f"zero{zero_stage(config)}" == path.stem.partition("_")[0]
    parts = {"zero2_offload": ["optimizer"], "zero3_offload": ["optimizer", "param"]}
    assert offloads(config) == parts.get(path.stem, [])


def test_what_a_config_leaves_out_is_put_in(tmp_path: Path) -> None:
    """DeepSpeed would clip nothing, and train in fp32."""
    config = made(written(tmp_path))
    assert config["gradient_clipping"] == 1.0 and config["bf16"] == {"enabled": True}
    assert made(written(tmp_path), optimizer={**OPTIONS["optimizer"], "clip": None})[
        "gradient_clipping"
    ] == pytest.approx(0.0)


def test_the_same_values_and_harmless_ones_are_taken(tmp_path: Path) -> None:
    same = {
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 4,
        "train_batch_size": 24,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "wall_clock_breakdown": True,
    }
    assert made(written(tmp_path, **same)) == {"zero_optimization": {"stage": 2}, **same}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"train_micro_batch_size_per_gpu": 1}, ["_micro_batch_size_per_gpu is 1", "mine", "3"]),
        ({"gradient_accumulation_steps": 8}, ["gradient_accumulation_steps is 8", "says 4"]),
        ({"train_batch_size": 256}, ["train_batch_size is 256", "says 24"]),
        ({"gradient_clipping": 0.5}, ["gradient_clipping is 0.5", "optimizer.clip", "says 1.0"]),
        ({"bf16": {"enabled": False}}, ["bf16.enabled is False", "precision (bf16)", "says True"]),
        ({"fp16": {"enabled": True}}, ["fp16", "precision", "(bf16)"]),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": 3e-4}}},
            ["optimizer", "0.0003", "tune.<module>.lr", "0.0001"],
        ),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler", "WarmupLR", "schedule", "cosine"]),
        ({"curriculum_learning": {"enabled": True}}, ["curriculum_learning", "plan"]),
        ({"zero_optimization": {"stage": 4}}, ["zero_optimization.stage", "4", "0, 1, 2, 3"]),
        ({"bf16": True}, ["bf16", "not a mapping"]),
    ],
)
def test_a_value_that_disagrees_names_both_keys_and_both_values(
    tmp_path: Path, config: dict, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        made(written(tmp_path, **config))
    for word in ["mine.json", *words]:
        assert word in str(error.value)


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        read_json_config(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match=r"bad\.json is not valid JSON"):
        read_json_config(str(tmp_path / "bad.json"))


def test_what_is_compiled_goes_to_a_folder_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = extensions.node_folder()
    (own,) = tmp_path.iterdir()
    assert folder.is_relative_to(own) and stat.S_IMODE(own.stat().st_mode) == 0o700
    assert extensions.node_folder() == folder
    own.chmod(0o777)
    with pytest.raises(ConfigError, match="TORCH_EXTENSIONS_DIR"):
        extensions.node_folder()


def test_a_checkpoint_in_parts_is_for_the_same_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "work/checkpoint-4"
    folder.mkdir(parents=True)
    checkpoints.seal(folder, step=4, ranks=2, zero_stage=3)
    checkpoints.check_parts(folder, {"ranks": 2, "zero_stage": 3})
    with pytest.raises(ConfigError, match=r"2 rank\(s\) with ZeRO stage 3, .* without DeepSpeed"):
        checkpoints.check_parts(folder, {})
    checkpoints.seal(folder, step=4)
    checkpoints.check_parts(folder, {})
    with pytest.raises(ConfigError, match=r"ranks without DeepSpeed, .* 4 rank\(s\) with ZeRO"):
        checkpoints.check_parts(folder, {"ranks": 4, "zero_stage": 2})


def _preset(folder: Path, device: str) -> Path:
    config = folder / "offload.json"
    write_json(config, {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})
    presets = folder / "presets"
    presets.mkdir()
    (presets / "mine.yaml").write_text(f"device: {device}\ndeepspeed: {config}\n")
    (presets / "plain.yaml").write_text("device: cuda\n")
    (presets / "wrong.yaml").write_text("deepspeed: none.json\n")
    return presets


def _program(folder: Path, name: str, says: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


def test_the_doctor_looks_for_compilers_where_a_preset_offloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_tools.offload_checks(tmp_path / "none") == []
    presets = _preset(tmp_path, "cuda")
    for name in ("CXX", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    (check,) = build_tools.offload_checks(presets)
    assert check.state == "missing" and "preset mine:" in check.found
    for word in ("g++", "ninja", "CUDA_HOME"):
        assert word in check.advice
    _program(tmp_path / "bin", "g++", "13.2.1")
    _program(tmp_path / "bin", "ninja", "1.13.0")
    _program(tmp_path / "cuda", "bin/nvcc", "Cuda compilation tools, release 13.0, V13.0.48")
    (check,) = build_tools.offload_checks(presets)
    assert (check.state, check.advice) == ("ok", "")
    assert "g++ 13.2.1, ninja 1.13.0, CUDA 13.0.48 in" in check.found


def test_a_cpu_preset_needs_no_cuda_to_offload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = _preset(tmp_path, "cpu")
    _program(tmp_path / "bin", "g++", "13.2.1")
    _program(tmp_path / "bin", "ninja", "1.13.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert build_tools.offload_checks(presets)[0].state == "ok"
