"""Keeping out of a program what it does not use: packages, and lines of the log.

transformers and accelerate import DeepSpeed (6-10 s), datasets and pandas (1 s) wherever they are
installed, PEFT bitsandbytes (3 s), even for a program that writes one file.
"""

from __future__ import annotations

import sys
import warnings
from logging import ERROR, getLogger

HEAVY = (
    "bitsandbytes",
    "deepspeed",
    "datasets",
    "mlflow",
    "tensorflow",
    "tensorboardX",
    "wandb",
)


def without(*packages: str) -> None:
    """Make packages look not installed for the rest of this process.

    To be called before transformers is imported. ``None`` in `sys.modules` is Python's own sign for
    it: an import raises ImportError and ``find_spec`` finds nothing.
    """
    for package in packages:
        sys.modules.setdefault(package, None)


def quiet() -> None:
    """Keep progress bars, and warnings about PEFT's and DeepSpeed's own code, out of the log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
    warnings.filterwarnings("ignore", ".*torch.distributed.*is deprecated.*", FutureWarning)
    # It says at every start with DeepSpeed that accumulation is DeepSpeed's, which is meant.
    getLogger("accelerate.accelerator").setLevel(ERROR)
