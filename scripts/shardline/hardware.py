"""Hardware presets: how a machine reaches what a plan asks for. No value here shapes a result."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from shardline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One ``config/hardware/<name>.yaml``."""

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    ranks: int = 1
    """Processes of one training, each with a device of its own."""
    micro_batch: int = 1
    """Packs a forward, at most."""
    workers: int = 0
    """Loader processes a rank; 0 loads in the training process."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of predictions; None takes the one that the weights are saved in."""
    gradient_checkpointing: bool = False
    deepspeed: str | None = None
    """Path of a DeepSpeed JSON, the project's or one's own; also with one rank."""
    auto_fit: bool = False
    """Halve ``micro_batch`` until the largest forwards fit the device's memory."""
    debug: bool = False
    """Synchronous CUDA, a check of every gradient, each step's packs in the log."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    keep_checkpoints: int | Literal["all"] = 2
    """The newest so many are kept; one with the best validation loss always is."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    """What packed attention runs on, on a GPU."""
    compile: Literal["none", "blocks"] = "none"
    """``blocks``: the layers of language model and vision tower are compiled by torch."""
    kernels: Literal["none", "liger"] = "none"
    """``liger``: norms and feed-forwards of the language model are Liger's kernels."""
    vision_patches: int = 16_384
    """Patches of a vision tower's forward, at most, where its outputs are computed once."""
    generation_batch: int = 32
    """Questions answered at a time."""


def load_hardware(path: Path) -> Hardware:
    """Read a preset.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, or a value that is not allowed; the
            message names file, key, value and what is allowed.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such hardware preset") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a preset is a mapping of keys to values")
    known = [field.name for field in fields(Hardware)]
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ConfigError(
            f"{path}: unknown key {', '.join(unknown)}; known are: {', '.join(known)}"
        )
    values.setdefault("name", Path(path).stem)
    for key, value in values.items():
        if message := _problem(key, value):
            raise ConfigError(f"{path}: {key}: {value!r} is not allowed; {message}")
    return Hardware(**values)


CHOICES: dict[str, tuple[Any, ...]] = {
    "device": ("cpu", "cuda"),
    "precision": (None, "fp32", "bf16"),
    "gradient_checkpointing": (False, True),
    "auto_fit": (False, True),
    "debug": (False, True),
    "attention": ("auto", "sdpa", "flash_attention_2", "flash_attention_3"),
    "compile": ("none", "blocks"),
    "kernels": ("none", "liger"),
}
LEAST = {
    "ranks": 1,
    "micro_batch": 1,
    "workers": 0,
    "checkpoint_every": 1,
    "vision_patches": 1,
    "generation_batch": 1,
}


def _problem(key: str, value: Any) -> str:
    """What is allowed for ``key``, if ``value`` is not."""
    if key in CHOICES:
        same = [choice for choice in CHOICES[key] if choice is value or choice == value]
        if not same or type(same[0]) is not type(value):
            return "one of " + ", ".join("null" if c is None else str(c) for c in CHOICES[key])
    elif key in LEAST:
        if type(value) is not int or value < LEAST[key]:
            return f"a whole number, at least {LEAST[key]}"
    elif key == "keep_checkpoints":
        if value != "all" and (type(value) is not int or value < 1):
            return "a whole number, at least 1, or all"
    elif not (isinstance(value, str) or (key == "deepspeed" and value is None)):
        return "a text" + (" or null" if key == "deepspeed" else "")
    return ""


def forwards(hardware: Hardware, packs: int, plan: str) -> tuple[int, int]:
    """How a rank gets through its share of a step of at most ``packs`` packs.

    Args:
        plan: the plan's path, for the message.

    Returns:
        Forwards a step, and packs a forward: at most ``micro_batch``, as even as they can be.

    Raises:
        ConfigError: some of the preset's ranks would have no pack in any step.
    """
    if hardware.ranks > packs:
        raise ConfigError(
            f"hardware preset {hardware.name!r} has {hardware.ranks} ranks, but the largest step "
            f"of {plan} has {packs} pack(s), so that some would never have one; lower ranks, or "
            "raise the recipe's global_batch"
        )
    share = -(-packs // hardware.ranks)
    count = -(-share // hardware.micro_batch)
    return count, -(-share // count)


def check_devices(hardware: Hardware, ranks: int, precision: str) -> None:
    """See that this machine has what the preset counts on.

    Args:
        ranks: processes that were started, over all machines.
        precision: of the training.

    Raises:
        ConfigError: another number of ranks, no GPU for each rank of this machine, or one that
            has no bf16.
    """
    if ranks != hardware.ranks:
        raise ConfigError(
            f"hardware preset {hardware.name!r}: ranks: {hardware.ranks}, but {ranks} were started "
            f"(WORLD_SIZE); start {hardware.ranks}, or change the preset"
        )
    if hardware.device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"hardware preset {hardware.name!r}: device: cuda, but torch sees no GPU here; see "
            "`shardline doctor`, or take a preset with device: cpu"
        )
    here, found = int(os.environ.get("LOCAL_WORLD_SIZE", ranks)), torch.cuda.device_count()
    if here > found:
        raise ConfigError(
            f"hardware preset {hardware.name!r}: ranks: {here} on this machine, but torch sees "
            f"{found} GPU(s) (CUDA_VISIBLE_DEVICES); allowed is at most {found}"
        )
    if precision == "bf16" and torch.cuda.get_device_capability()[0] < 8:
        raise ConfigError(
            f"hardware preset {hardware.name!r}: {torch.cuda.get_device_name()} has no bf16, which "
            "the recipe's precision asks for; allowed there is precision: fp32"
        )
