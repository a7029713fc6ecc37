"""The probability that an image is good, by a classifier trained here on labelled images.

The classes count as equally frequent, whatever their shares were in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shardline.classifier.options import DEFAULTS, check
from shardline.classifier.pixels import squares
from shardline.forwards import in_batches
from shardline.scoring import Run

__all__ = ["DEFAULTS", "MODEL", "TRAINED", "check", "score"]

TRAINED = True
MODEL = "weights"


def score(files: Sequence[Path], options: dict[str, Any], run: Run) -> Iterator[dict[str, float]]:
    """The probability of the good class for each image file, in the order of ``files``."""
    from shardline.classifier.network import forward, load_model

    model, config = load_model(run.model, run.device)

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        return forward(model, pixels, run.device).double().softmax(1).numpy()

    pictures = squares(files, config["image_size"], run.workers)
    for _, good in in_batches(pictures, probabilities, run):
        yield {"score": float(good)}
