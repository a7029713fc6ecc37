"""Bicubic resizing to the very pixels of the published image processors.

They resize with torchvision, whose kernel for whole pixels rounds after the width and again after
the height. The same kernel is three to four times as fast as Pillow's, and leaves no difference.
"""

from __future__ import annotations

import numpy as np


def resize_bicubic(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels uint8 [., ., 3] as [height, width, 3], antialiased."""
    if pixels.shape == (height, width, 3):
        return pixels
    import torch

    # Unsqueezed first: the kernel then sees that it can read and write pixel by pixel.
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2),
        (height, width),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()
