"""The options of the quality classifier: everything that shapes its scores."""

from __future__ import annotations

from typing import Any

from shardline.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "labels": "",
    "good": "1",
    "architecture": "resnet50",
    "weights": None,
    "image_size": 224,
    "epochs": 200,
    "batch": 64,
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "patience": 10,
    "seed": 42,
}
"""``labels`` is the dataset to learn from and ``good`` the label of its good images; all others are
bad. ``weights`` is the source of the initial ones, ImageNet's for example. ``image_size`` is the
side, in pixels, that every image is brought to. ``patience`` is a number of epochs: see `learning`.
A ResNet-50 takes about 0.1 GB of memory an image of a batch at 224 pixels; upstream's 256 need a
GPU."""
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RANGES = {
    "image_size": (32, 1024),
    "epochs": (1, 10_000),
    "batch": (4, 4096),
    "patience": (1, 10_000),
    "seed": (0, 2**32 - 1),
}
RATES = {"learning_rate": 1.0, "weight_decay": 1.0}


def check(options: dict[str, Any]) -> None:
    """See that the options make sense.

    Raises:
        ConfigError: one does not; the message begins with its name.
    """
    for key in ("labels", "good"):
        if not isinstance(options[key], str):
            raise ConfigError(f"{key}: {options[key]!r}; allowed: text (in quotes)")
    if options["architecture"] not in ARCHITECTURES:
        allowed = ", ".join(ARCHITECTURES)
        raise ConfigError(f"architecture: {options['architecture']!r}; allowed: {allowed}")
    if not (options["weights"] is None or isinstance(options["weights"], str)):
        raise ConfigError(f"weights: {options['weights']!r}; allowed: a model's source, or null")
    for key, (least, most) in RANGES.items():
        value = options[key]
        if type(value) is not int or not least <= value <= most:
            raise ConfigError(f"{key}: {value!r}; allowed: a whole number from {least} to {most}")
    for key, most in RATES.items():
        value = options[key]
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise ConfigError(f"{key}: {value!r}; allowed: a number from 0 to {most}")
