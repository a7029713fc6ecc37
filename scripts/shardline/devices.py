"""The device that torch computes on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_name(device: str) -> str:
    """The device as people call it: ``cpu``, or the name of the GPU."""
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


def repeatable(kind: str) -> torch.device:
    """This process's device of a kind, ``cpu`` or ``cuda``, with what follows made repeatable."""
    import torch

    cuda = kind == "cuda"
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Some CUDA kernels have no deterministic twin; those warn. Filling new memory with NaN to
    # catch its use costs a tenth of a small model's step and changes no result.
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
