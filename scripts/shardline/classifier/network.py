"""The network: a ResNet with a head of three layers, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torchvision.models import get_model

from shardline.errors import DataError
from shardline.files import atomic_file, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, on which published weights were trained
DEVIATION = (0.229, 0.224, 0.225)
HIDDEN = (512, 256)
DROPOUT = (0.5, 0.3)
HEAD = "fc."
COUNTER = "num_batches_tracked"  # of batch norms; old files lack it, and nothing here reads it


def build(architecture: str) -> nn.Module:
    """A ResNet of random weights with two outputs: bad and good."""
    model = get_model(architecture, weights=None)
    first, second = HIDDEN
    model.fc = nn.Sequential(
        nn.Linear(model.fc.in_features, first),
        nn.ReLU(),
        nn.Dropout(DROPOUT[0]),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Dropout(DROPOUT[1]),
        nn.Linear(second, 2),
    )
    return model


def weights_file(folder: Path) -> Path:
    """The only safetensors file of a model folder, or the one called ``model.safetensors``.

    Raises:
        DataError: there is none, or several.
    """
    found = sorted(folder.glob("*.safetensors"))
    if folder / WEIGHTS in found:
        return folder / WEIGHTS
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} safetensors files; one, {WEIGHTS}, is expected")
    return found[0]


def load_backbone(model: nn.Module, folder: Path) -> None:
    """Load all weights but the head's: a state dict with the names of torchvision (and timm).

    Raises:
        DataError: not the weights of this architecture.
    """
    file = weights_file(folder)
    given = {name: value for name, value in _load(file).items() if not name.startswith(HEAD)}
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(HEAD)}
    problems = [
        *(f"{name} is missing" for name in own.keys() - given.keys() if COUNTER not in name),
        *(f"{name} is unknown" for name in given.keys() - own.keys()),
        *(
            f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
            for name in own.keys() & given.keys()
            if own[name].shape != given[name].shape
        ),
    ]
    if problems:
        raise DataError(
            f"{file}: not the weights of this architecture: {', '.join(sorted(problems)[:3])}"
            + f" and {len(problems) - 3} more" * (len(problems) > 3)
        )
    model.load_state_dict(given, strict=False)


def save_model(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Write a classifier's folder; the same weights give the same bytes."""
    data = save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"})
    with atomic_file(folder / WEIGHTS) as file:
        file.write(data)
    write_json(folder / CONFIG, config)


def load_model(folder: Path, device: str) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier, ready to judge, and its config: ``architecture`` and ``image_size``.

    Raises:
        DataError: not a folder that `save_model` wrote.
    """
    config = read_json(folder / CONFIG)
    model = build(config["architecture"])
    try:
        model.load_state_dict(_load(folder / WEIGHTS))
    except RuntimeError as error:
        raise DataError(f"{folder}: {error}") from None
    return model.eval().to(device), config


def as_input(pixels: np.ndarray, device: str) -> torch.Tensor:
    """Squares (n, side, side, 3) of uint8 as the network's input (n, 3, side, side)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=device).view(1, 3, 1, 1)
    return (values.float() / 255 - mean) / deviation


@torch.inference_mode()
def forward(model: nn.Module, pixels: np.ndarray, device: str) -> torch.Tensor:
    """The network's outputs (n, 2) for squares, on the CPU."""
    return model(as_input(pixels, device)).float().cpu()


def _load(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: no weights: {error}") from None
