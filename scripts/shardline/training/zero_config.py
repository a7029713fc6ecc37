"""What DeepSpeed is told: the JSON that a preset names, with what the recipe and the preset own.

A value that has an owner is ``auto`` in the JSON, absent, or the same; it never replaces the
owner's silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError
from shardline.hardware import Hardware

AUTO = "auto"
STAGES = (0, 1, 2, 3)
REFUSED = {
    "optimizer": "the recipe's `optimizer` and `tune.<module>.lr`",
    "scheduler": "the recipe's `schedule`",
    "fp16": "the recipe's `precision`, fp32 or bf16",
    "amp": "the recipe's `precision`, fp32 or bf16",
    "torch_autocast": "the recipe's `precision`, fp32 or bf16",
    "curriculum_learning": "the recipe's data, in the order of its plan",
    "data_efficiency": "the recipe's data, in the order of its plan",
    "compression_training": "the model as the recipe tunes it",
    "progressive_layer_drop": "the model as the recipe tunes it",
    "sparse_attention": "Shardline's own attention of packs",
    "tensor_parallel": "the preset's `ranks`, each with whole rows",
    "sequence_parallel_size": "the preset's `ranks`, each with whole rows",
    "elasticity": "the preset's `ranks`",
    "autotuning": "the preset",
}
"""Sections that would replace what something else says, and what that is."""


def read_json_config(path: str) -> dict[str, Any]:
    """The DeepSpeed JSON of a preset.

    Raises:
        ConfigError: no such file, not a JSON mapping, or no stage that there is.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"deepspeed: {path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"deepspeed: {path}: a DeepSpeed config is a mapping of keys to values")
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict) or zero.get("stage", 0) not in STAGES:
        raise ConfigError(
            f"{path}: zero_optimization.stage: {zero!r} is not allowed; a mapping whose `stage` is "
            f"one of {', '.join(map(str, STAGES))}"
        )
    return config


def zero_stage(config: Mapping[str, Any]) -> int:
    """How much the ranks share: 1 optimiser state, 2 gradients too, 3 parameters too."""
    return config.get("zero_optimization", {}).get("stage", 0)


def preset_zero_stage(hardware: Hardware) -> int:
    """The ZeRO stage of a preset's DeepSpeed JSON; 0 without one."""
    return zero_stage(read_json_config(hardware.deepspeed)) if hardware.deepspeed else 0


def offloads(config: Mapping[str, Any]) -> list[str]:
    """What is kept off the GPU: ``optimizer``, ``param``."""
    zero = config.get("zero_optimization", {})
    return [
        part
        for part in ("optimizer", "param")
        if zero.get(f"offload_{part}", {}).get("device", "none") != "none"
    ]


def deepspeed_config(
    hardware: Hardware, options: Mapping[str, Any], accumulation: int, micro_batch: int
) -> dict[str, Any] | None:
    """The preset's JSON with every owned value put in; None without DeepSpeed.

    Args:
        accumulation, micro_batch: forwards a step and rank, packs a forward.

    Raises:
        ConfigError: the JSON says something else than the owner of a value; the message names both
            keys and both values.
    """
    if hardware.deepspeed is None:
        return None
    path, preset = hardware.deepspeed, f"preset {hardware.name}"
    config = read_json_config(path)
    for key, owner in REFUSED.items():
        if _is_on(config.get(key)):
            raise ConfigError(
                f"{path}: {key}: {_short(config[key])} would replace {owner}"
                f"{_theirs(key, options)}; remove `{key}` from the JSON"
            )
    packs = hardware.ranks * accumulation * micro_batch
    derived = f"{preset} with the plan's packs"
    bf16 = options["precision"] == "bf16"
    owned = {
        "train_micro_batch_size_per_gpu": (micro_batch, f"packs a forward of {derived}"),
        "gradient_accumulation_steps": (accumulation, f"forwards a step of {derived}"),
        "train_batch_size": (packs, f"ranks x forwards x packs of {derived}"),
        "gradient_clipping": (options["optimizer"]["clip"] or 0.0, "the recipe's optimizer.clip"),
        "bf16.enabled": (bf16, f"the recipe's precision ({options['precision']})"),
    }
    for key, (value, owner) in owned.items():
        _own(config, path, key, value, owner)
    return config


def _own(config: dict[str, Any], path: str, key: str, value: Any, owner: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
        if not isinstance(config, dict):
            raise ConfigError(f"{path}: {section}: {config!r} is not a mapping")
    found = config.get(last, AUTO)
    if found not in (AUTO, None) and found != value:
        raise ConfigError(
            f"{path}: {key} is {found!r}, but {owner} says {value!r}; write "
            f'"{AUTO}" in the JSON, or change the other'
        )
    config[last] = value


def _is_on(section: Any) -> bool:
    """Whether a section of the JSON does anything."""
    if isinstance(section, dict):
        return section.get("enabled", True) not in (False, AUTO)
    return section not in (None, False, 1)


def _short(section: Any) -> str:
    text = json.dumps(section, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _theirs(key: str, options: Mapping[str, Any]) -> str:
    """What the recipe says in place of a section."""
    if key == "optimizer":
        rates = {module: tune["lr"] for module, tune in options["tune"].items() if tune.get("lr")}
        return f" ({_short(options['optimizer'])}, lr {_short(rates)})"
    if key == "scheduler":
        return f" ({_short(options['schedule'])})"
    return f" ({options['precision']})" if key in ("fp16", "amp", "torch_autocast") else ""
