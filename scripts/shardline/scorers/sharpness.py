"""Sharpness: the variance of the Laplacian of the grey picture, brought to one size.

The measure is Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative
study (ICPR 2000). It tells a blurred view from a crisp one of the same object in the same
rendering; it knows nothing of what is shown, and noise or texture count as sharp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shardline.images import decode_audited
from shardline.scoring import Run

DEFAULTS: dict[str, Any] = {}
SIDE = 256  # pixels of the longer side, so that files of other sizes compare


def score(files: Sequence[Path], options: dict[str, Any], run: Run) -> Iterator[dict[str, float]]:
    """The sharpness of each image file as people see it, in the order of ``files``."""
    for value in run.workers.map(score_file, [str(file) for file in files]):
        yield {"score": value}


def score_file(path: str) -> float:
    """The sharpness of an image file, in squared grey levels: 0 for a flat one.

    Raises:
        DataError: the file is gone or is no image, though the audit took it.
    """
    return sharpness(decode_audited(path))


def sharpness(image: Image.Image) -> float:
    """Variance of the 4-neighbour Laplacian of the grey image whose longer side is `SIDE`.

    The border is repeated outwards. Sums are over whole numbers, so the result is the same on any
    machine.
    """
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    grey = image.convert("L").resize(size, Image.Resampling.BILINEAR)
    padded = np.pad(np.asarray(grey).astype(np.int64), 1, mode="edge")
    laplacian = (
        padded[:-2, 1:-1]
        + padded[2:, 1:-1]
        + padded[1:-1, :-2]
        + padded[1:-1, 2:]
        - 4 * padded[1:-1, 1:-1]
    )
    total, squares = int(laplacian.sum()), int((laplacian**2).sum())
    return (laplacian.size * squares - total**2) / laplacian.size**2
