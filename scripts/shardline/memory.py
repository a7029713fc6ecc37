"""How much memory a training needs on each device: an estimate, before a device is booked.

In bytes a device, with b = 2 for bf16 and 4 for fp32::

    weights      4 P_full + b P_frozen + 4 P_lora + (b P_full under bf16: autocast's copies)
    gradients    4 (P_full + P_lora)
    optimiser    8 (P_full + P_lora)                            AdamW's two moments, fp32
    activations  T L (b (8 h + 3 k + 4 i) + 8 h)                the language model's blocks
                 + N D (b (10 e + 2 m e) + 8 e)                 the vision tower's, if it learns
    logits       S V (b + 8)                                    logits, fp32 copy and its gradient

With ``quantise`` the language model's linear layers have 4.127 bits a number in place of b bytes.
T tokens, N patches, S supervised tokens of one forward; L layers of width h, MLP width i, keys'
width k; D vision blocks of width e, MLP ratio m; V vocabulary. The sums count what each block keeps
for its backward: inputs of both norms and their fp32 copies, projections before and after rotation,
attention's output, gate, up and their product; attention itself keeps nothing of T x T. With
gradient checkpointing a block keeps its input alone (b h), and one block is there whole. DeepSpeed
divides the optimiser (stage 1), gradients (2) and weights (3) by the number of ranks. Not counted
are the CUDA context (0.5 to 1 GB), fragmentation and buffers of communication.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shardline.errors import DataError
from shardline.files import read_json
from shardline.hardware import Hardware
from shardline.training.zero_config import preset_zero_stage

Shapes = dict[str, tuple[int, ...]]
BYTES = {"bf16": 2, "fp32": 4}
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes a number: 4 bits, 8 of scale for each 64, and 32 for each 256 of those scales."""
MODULES = ("llm", "projector", "vision")
EMBEDDINGS = ("lm_head", "embed_tokens")
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model from its ``config.json``, named as in this module's formula."""

    layers: int
    hidden: int
    intermediate: int
    key_width: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_ratio: float


@dataclass(frozen=True)
class Forward:
    """What one forward holds: tokens, patches, supervised tokens."""

    tokens: int
    patches: int
    supervised: int


def read_shapes(folder: Path) -> Shapes:
    """Shapes of all tensors in a folder's safetensors files, from their headers alone.

    Raises:
        DataError: there is none, or one is no safetensors file.
    """
    shapes: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else LARGEST_HEADER + 1
            text = stream.read(length) if length <= LARGEST_HEADER else b""
        try:
            header = json.loads(text)
            shapes |= {
                name: tuple(entry["shape"])
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{file}: not a safetensors file") from None
    if not shapes:
        raise DataError(f"{folder}: has no *.safetensors")
    return shapes


def read_architecture(folder: Path) -> Architecture:
    """Sizes from ``config.json``; a config with and one without ``text_config`` are read.

    Raises:
        DataError: no such file, or a size is missing.
    """
    config = read_json(folder / "config.json")
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    try:
        heads = text["num_attention_heads"]
        width = text.get("head_dim") or text["hidden_size"] // heads
        return Architecture(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            key_width=width * (text.get("num_key_value_heads") or heads),
            vocabulary=text["vocab_size"],
            vision_layers=vision.get("depth", 0),
            vision_hidden=vision.get("embed_dim") or vision.get("hidden_size", 0),
            vision_ratio=vision.get("mlp_ratio", 4),
        )
    except KeyError as error:
        raise DataError(f"{folder / 'config.json'}: has no {error.args[0]}") from None


def parameter_counts(shapes: Shapes, family: ModuleType) -> dict[str, int]:
    """Parameters of each module."""
    counts = dict.fromkeys(MODULES, 0)
    for name, shape in shapes.items():
        counts[family.module_of(name)] += _product(shape)
    return counts


def lora_parameters(shapes: Shapes, family: ModuleType, tune: Mapping[str, Any]) -> int:
    """Parameters that LoRA adds: rank x (inputs + outputs) for each adapted linear layer.

    Linear layers are the tensors ``*.weight`` with two dimensions, embeddings and head excepted.
    """
    total = 0
    for name, shape in shapes.items():
        module = tune[family.module_of(name)]
        layer, _, kind = name.rpartition(".")
        last = layer.rpartition(".")[2]
        if module["mode"] != "lora" or kind != "weight" or len(shape) != 2 or last in EMBEDDINGS:
            continue
        targets = module.get("targets")
        if targets is None or any(f".{layer}".endswith(f".{target}") for target in targets):
            total += module["rank"] * sum(shape)
    return total


def quantised_parameters(shapes: Shapes, family: ModuleType) -> int:
    """Parameters of the linear layers that `quantise` holds in 4 bits."""
    return sum(
        _product(shape)
        for name, shape in shapes.items()
        if family.module_of(name) == "llm"
        and name.endswith(".weight")
        and len(shape) == 2
        and name.split(".")[-2] not in EMBEDDINGS
    )


def device_bytes(
    shapes: Shapes,
    architecture: Architecture,
    family: ModuleType,
    options: Mapping[str, Any],
    forward: Forward,
    hardware: Hardware,
) -> dict[str, int]:
    """Bytes of each part on one device, and their ``total``.

    Args:
        options: of `train_stage`: ``tune``, ``precision`` and, where there is one, ``quantise``.
        forward: of one micro-batch.
    """
    tune, size = options["tune"], BYTES[options["precision"]]
    counts = parameter_counts(shapes, family)
    full = sum(counts[module] for module in MODULES if tune[module]["mode"] == "full")
    frozen = sum(counts.values()) - full
    trained = full + lora_parameters(shapes, family, tune)
    copies = size * full if options["precision"] == "bf16" else 0
    stage = preset_zero_stage(hardware)
    packed = quantised_parameters(shapes, family) if options.get("quantise") else 0
    kept = size * (frozen - packed) + round(NF4 * packed)
    parts = {
        "weights": (4 * trained + kept + copies) // _ranks(hardware, stage >= 3),
        "gradients": 4 * trained // _ranks(hardware, stage >= 2),
        "optimiser": 8 * trained // _ranks(hardware, stage >= 1),
        "activations": activation_bytes(architecture, tune, forward, hardware, size),
        "logits": forward.supervised * architecture.vocabulary * (size + 8),
    }
    return parts | {"total": sum(parts.values())}


def activation_bytes(
    architecture: Architecture,
    tune: Mapping[str, Any],
    forward: Forward,
    hardware: Hardware,
    size: int,
) -> int:
    """Bytes that the blocks keep for the backward; ``size`` of one number."""
    text = size * (
        8 * architecture.hidden + 3 * architecture.key_width + 4 * architecture.intermediate
    )
    text += 8 * architecture.hidden
    vision = size * (10 + 2 * architecture.vision_ratio) * architecture.vision_hidden
    vision += 8 * architecture.vision_hidden
    learns = tune["vision"]["mode"] != "frozen"
    blocks = [
        (forward.tokens, architecture.layers, text, size * architecture.hidden),
        (
            forward.patches * learns,
            architecture.vision_layers,
            vision,
            size * architecture.vision_hidden,
        ),
    ]
    if not hardware.gradient_checkpointing:
        return int(sum(places * layers * whole for places, layers, whole, _ in blocks))
    kept = sum(places * layers * entry for places, layers, _, entry in blocks)
    return int(kept + max(places * whole for places, _, whole, _ in blocks))


def _ranks(hardware: Hardware, divided: bool) -> int:
    return hardware.ranks if divided else 1


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
