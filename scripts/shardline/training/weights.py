"""Saving what a stage has trained: a whole model, or an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from shardline.errors import GateError
from shardline.files import write_json
from shardline.training.outcome import EXTRA, TRAINED
from shardline.training.tuning import base_name, is_adapter

ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"  # PEFT's own model card, which names no data


def save_weights(
    model: torch.nn.Module, state: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype
) -> None:
    """Write a model folder, or an adapter folder if PEFT wraps the model.

    The same weights give the same bytes. An adapter keeps its precision; base tensors trained in
    full beside it go to ``tuned.safetensors``.

    Args:
        state: the model's state dict (whole tensors, also where ranks hold parts).
        dtype: of a model's weights.
    """
    folder.mkdir(parents=True)
    config = model.config
    for part in (config, config.get_text_config()):
        part.use_cache = True
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder, state_dict=_cast(state, dtype))
        return
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    (folder / CARD).unlink(missing_ok=True)
    adapter = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    adapter["target_modules"] = sorted(adapter["target_modules"])
    write_json(folder / ADAPTER_CONFIG, adapter)
    trained = {
        base_name(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not is_adapter(name)
    }
    tuned = {base_name(name): value for name, value in state.items() if base_name(name) in trained}
    if tuned:
        save_file(_cast(tuned, dtype), folder / EXTRA, metadata={"format": "pt"})


def take_trained(model: torch.nn.Module, checkpoint: Path) -> None:
    """Put what a checkpoint has trained into a model.

    Raises:
        GateError: the checkpoint is of other parameters than those trained in the model.
    """
    tensors = load_file(checkpoint / TRAINED)
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if tensors.keys() != trained.keys():
        raise GateError(f"{checkpoint}: its parameters are not those that are trained now")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state in ``dtype``; tensors that share memory (tied weights) still do."""
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
    return {
        name: cast.setdefault((value.data_ptr(), value.shape), value.to(dtype).contiguous())
        for name, value in state.items()
    }
