"""Keeping packages that a program does not use from being imported on its behalf.

transformers and accelerate import DeepSpeed (6-10 s), datasets and pandas (1 s) wherever they are
installed, even for a program that writes one file.
"""

from __future__ import annotations

import sys

HEAVY = ("deepspeed", "datasets", "mlflow", "tensorflow", "tensorboardX", "wandb")


def without(*packages: str) -> None:
    """Make packages look not installed for the rest of this process.

    To be called before transformers is imported. ``None`` in `sys.modules` is Python's own sign for
    it: an import raises ImportError and ``find_spec`` finds nothing.
    """
    for package in packages:
        sys.modules.setdefault(package, None)
