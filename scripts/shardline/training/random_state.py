"""The global random generators that a training draws from, as one value."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = tuple[Any, ...]


def take() -> State:
    """The state of Python's, NumPy's and torch's generators, those of all GPUs included."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def put_back(state: State) -> None:
    """Make the generators go on as they would have when `take` was called."""
    python, numpy, cpu, gpus = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)
