"""The weights of a checkpoint, as an export reads those that a training has ended with."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from shardline.errors import DataError
from shardline.training.outcome import EXTRA, TRAINED
from shardline.training.tuning import base_name, is_adapter

if TYPE_CHECKING:
    import torch

LAST = "last"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
ADAPTER = ".default"  # PEFT's name of the adapter that is trained, which its files leave out


def load_checkpoint(
    family: ModuleType, model: Path, checkpoint: Path, dtype: torch.dtype
) -> torch.nn.Module:
    """The model that a stage started from, with the weights that a checkpoint of it has.

    Raises:
        DataError: the checkpoint has weights that the model does not.
    """
    import torch
    from safetensors.torch import load_file

    loaded = family.load_model(model, dtype, "cpu")
    parameters = dict(loaded.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(checkpoint / TRAINED).items():
            if name not in parameters:
                raise DataError(f"{checkpoint / TRAINED}: {name} is no weight of {model}")
            parameters[name].copy_(tensor)
    return loaded


def write_adapter(checkpoint: Path, final: Path, folder: Path) -> None:
    """Write the adapter of a checkpoint, and what was trained beside it, into ``folder``.

    Args:
        final: the folder that the training has ended with; its config and precision are taken.

    Raises:
        DataError: the checkpoint has other tensors than the adapter.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / TRAINED)
    adapter = {
        name.replace(f"{ADAPTER}.", "."): tensor
        for name, tensor in tensors.items()
        if is_adapter(name)
    }
    if adapter.keys() != load_file(final / WEIGHTS).keys():
        raise DataError(f"{checkpoint / TRAINED}: not the tensors of {final / WEIGHTS}")
    save_file(adapter, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(final / CONFIG, folder / CONFIG)
    if (final / EXTRA).is_file():
        last = load_file(final / EXTRA)
        extra = {base_name(name): value for name, value in tensors.items() if not is_adapter(name)}
        cast = {name: value.to(last[name].dtype).contiguous() for name, value in extra.items()}
        save_file(cast, folder / EXTRA, metadata={"format": "pt"})
