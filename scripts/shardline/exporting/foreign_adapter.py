"""A LoRA adapter of another program, merged into a base: a model like any other.

The adapter is first written anew, in the names that the base's layers have here and with one entry
a layer, so that no tensor can be left over or lack its place; then it is merged as ours are.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from shardline.errors import DataError
from shardline.exporting.adapter import CONFIG, WEIGHTS
from shardline.exporting.merge import merge_adapter, saved_dtype, write_model
from shardline.files import read_json, write_json
from shardline.folders import install, remove, unfinished
from shardline.locks import write_lock
from shardline.training.outcome import EXTRA

HEADS = ("lm_head", "embed_tokens")
PREFIX = "base_model.model."
_PART = re.compile(r"(?P<layer>.+)\.(?P<part>lora_[A-Za-z_]+?)(\.default)?(\.weight)?")
Tensors = dict[str, torch.Tensor]


def apply_adapter(
    name: str,
    family: ModuleType,
    base: Path,
    base_lock: Path,
    adapter: Path,
    adapter_lock: Path,
    raw: Path,
    lock: Path,
    files: Path,
) -> None:
    """Write base plus adapter as a model folder, its file list and, last, its lock.

    Raises:
        DataError: the adapter is no LoRA, or a tensor of it has no place in the base.
        GateError: as `merge_adapter`.
    """
    lock.unlink(missing_ok=True)
    growing = unfinished(raw, "adapted")
    remove(growing)
    growing.mkdir(parents=True)
    dtype = saved_dtype(base)
    with tempfile.TemporaryDirectory() as folder:
        bare = family.load_model(base, torch.bfloat16, "cpu")
        rewrite(bare, adapter, Path(folder))
        del bare
        merged, parity = merge_adapter(family, base, Path(folder), dtype)
    write_model(family, merged, base, growing, dtype)
    install(growing, raw)
    print(
        f"{parity['changed_tensors']} tensors of the base changed; merged logits differ by "
        f"{parity['max_logit_difference']:.1e} from base + adapter"
    )
    sources = [read_json(path) for path in (adapter_lock, base_lock)]
    write_lock(
        raw,
        lock,
        files,
        name=name,
        kind="model",
        source=f"adapter+{sources[0]['source']} on {sources[1]['source']}",
        revision=sources[0]["revision"],
    )


def rewrite(model: torch.nn.Module, adapter: Path, folder: Path) -> None:
    """Write an adapter in the names of a model's own layers, one entry of its config a layer.

    Layers whose adapter is zero are left out; whole tensors beside the adapter, such as a saved
    head, go to ``tuned.safetensors``.

    Raises:
        DataError: see `apply_adapter`.
    """
    config = read_json(adapter / CONFIG)
    _check(config, adapter)
    rename = _renaming(model)
    layers: dict[str, Tensors] = {}
    scales: dict[str, float] = {}
    whole = load_file(adapter / EXTRA) if (adapter / EXTRA).is_file() else {}
    for key, value in load_file(adapter / WEIGHTS).items():
        plain = key.removeprefix(PREFIX)
        if not (found := _PART.fullmatch(plain)):
            whole[rename(plain.replace(".modules_to_save", "").replace(".base_layer", ""))] = value
            continue
        layer = rename(f"{found['layer']}.weight").removesuffix(".weight")
        layers.setdefault(layer, {})[found["part"]] = value
        scales[layer] = _entry(config, "alpha_pattern", "lora_alpha", found["layer"])
    tied = model.config.tie_word_embeddings
    for layer, parts in layers.items():
        _check_layer(model, layer, parts, tied, adapter)
    idle = [name for name, parts in layers.items() if not _acts(parts)]
    if idle:
        print(f"{len(idle)} adapted layers have a zero adapter, such as {idle[0]}: left out")
    layers = {name: parts for name, parts in layers.items() if name not in idle}
    whole = _changed(model, whole, tied, adapter)
    if not layers:
        raise DataError(f"{adapter / WEIGHTS}: its adapter changes nothing: every B is zero")
    save_file(
        {
            f"{PREFIX}{layer}.{part}" + (".weight" if part in ("lora_A", "lora_B") else ""): value
            for layer, parts in layers.items()
            for part, value in parts.items()
        },
        folder / WEIGHTS,
    )
    if whole:
        save_file(whole, folder / EXTRA)
    kept = {
        key: config[key] for key in ("use_rslora", "use_dora", "fan_in_fan_out") if key in config
    }
    write_json(
        folder / CONFIG,
        {
            **kept,
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "target_modules": sorted(layers),
            "r": config["r"],
            "lora_alpha": config["lora_alpha"],
            "rank_pattern": {layer: parts["lora_A"].shape[0] for layer, parts in layers.items()},
            "alpha_pattern": {layer: scales[layer] for layer in layers},
        },
    )


def _check(config: Mapping[str, Any], adapter: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise DataError(
            f"{adapter / CONFIG}: peft_type is {config.get('peft_type')!r}; allowed: LORA"
        )
    if config.get("bias", "none") != "none":
        raise DataError(f"{adapter / CONFIG}: bias is {config['bias']!r}; allowed: none")
    if not (adapter / WEIGHTS).is_file():
        raise DataError(
            f"{adapter}: has no {WEIGHTS}; pickled weights are not loaded: load the adapter with "
            "PEFT and save it again with safe_serialization=True"
        )


def _entry(config: Mapping[str, Any], pattern: str, default: str, layer: str) -> float:
    """What the config has for a layer, by the names that the adapter's program knew."""
    patterns = config.get(pattern) or {}
    return patterns.get(get_pattern_key(list(patterns), layer), config[default])


def _renaming(model: torch.nn.Module) -> Any:
    """From the name of a tensor in any layout that transformers reads to the one in the model."""
    known = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    mapping = get_model_conversion_mapping(model)
    steps = [
        [one for one in mapping if isinstance(one, kind)]
        for kind in (WeightRenaming, WeightConverter)
    ]

    def rename(name: str) -> str:
        found = name if name in known else rename_source_key(name, *steps)[0]
        if found not in known:
            raise DataError(
                f"the adapter has tensors for {name.removesuffix('.weight')}, and the base has no "
                "such layer: it is an adapter of another model"
            )
        return found

    return rename


def _check_layer(
    model: torch.nn.Module, layer: str, parts: Tensors, tied: bool, adapter: Path
) -> None:
    """See that a layer's adapter is whole and fits it."""
    where = f"{adapter / WEIGHTS}: {layer}"
    if tied and layer.rpartition(".")[2] in HEADS:
        raise DataError(
            f"{where} is adapted, but the base ties its embeddings and its output head: merging "
            "would change both. Train that adapter without this layer"
        )
    if missing := {"lora_A", "lora_B"} - set(parts):
        raise DataError(f"{where}: has no {', '.join(sorted(missing))}")
    module = model.get_submodule(layer)
    if not isinstance(module, torch.nn.Linear):
        raise DataError(f"{where} is a {type(module).__name__}; allowed: adapters of linear layers")
    (rank, inputs), (outputs, columns) = parts["lora_A"].shape, parts["lora_B"].shape
    if (outputs, inputs) != tuple(module.weight.shape) or rank != columns:
        raise DataError(
            f"{where}: its adapter is {outputs} x {columns} times {rank} x {inputs}, and the "
            f"layer of the base {' x '.join(map(str, module.weight.shape))}: an adapter of another "
            "model"
        )


def _acts(parts: Tensors) -> bool:
    return bool(parts["lora_B"].any()) or len(parts) > 2


def _changed(model: torch.nn.Module, whole: Tensors, tied: bool, adapter: Path) -> Tensors:
    """The whole tensors that are not what the base has; PEFT may save those too."""
    changed = {}
    for name, value in whole.items():
        base = model.get_parameter(name)
        if base.shape != value.shape:
            raise DataError(
                f"{adapter}: {name} is {tuple(value.shape)}, in the base {tuple(base.shape)}"
            )
        if torch.equal(base.detach(), value.to(base.dtype)):
            continue
        if tied and name.split(".")[-2] in HEADS:
            raise DataError(
                f"{adapter}: has its own {name}, but the base ties its embeddings and its output "
                "head: the other one would change too"
            )
        changed[name] = value
    return changed
