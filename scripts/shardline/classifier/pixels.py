"""Pictures as the classifier sees them: squares of one size, turned and recoloured for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shardline.files import atomic_file, sha256_bytes
from shardline.images import decode_audited
from shardline.parallel import Workers


def square(path: str, side: int) -> np.ndarray:
    """An image file as people see it, stretched to a square: (side, side, 3) of uint8.

    Raises:
        DataError: the file is gone or is no image, though the audit took it.
    """
    image = decode_audited(path).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def squares(files: Iterable[Path], side: int, workers: Workers) -> Iterator[np.ndarray]:
    """Yield the square of each file in order, while the next ones are decoded."""
    return workers.stream(partial(square, side=side), map(str, files), name=str)


def stored_squares(file: Path, paths: Sequence[Path], side: int, workers: Workers) -> np.ndarray:
    """The squares of all images, read-only, on disk: decoded once, not once an epoch.

    Args:
        file: where they are, or go.
    """
    shape = (len(paths), side, side, 3)
    if not file.is_file() or file.stat().st_size != math.prod(shape):
        with atomic_file(file) as output:
            for pixels in squares(paths, side, workers):
                output.write(pixels.tobytes())
    return np.memmap(file, np.uint8, "r", shape=shape)


@cache
def _augmentation() -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomRotation(10),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        ]
    )


def augmented(pixels: np.ndarray, seed: int) -> np.ndarray:
    """A square mirrored (every other one), turned by up to 10 degrees and recoloured.

    The seed alone decides how, whatever else is random in the process.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return np.asarray(_augmentation()(Image.fromarray(pixels)))


class Augmented:
    """A map from (epoch, image) to the image's square in that epoch; for a `DataLoader`."""

    def __init__(self, pixels: np.ndarray, names: Sequence[str], seed: int) -> None:
        """``names`` are the images' own, such as their hashes: each has its own randomness."""
        self.pixels = pixels
        self.names = names
        self.seed = seed
        _augmentation()  # imported before loader processes begin, not in each of them

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        epoch, image = key
        return augmented(self.pixels[image], seed_of(self.seed, epoch, self.names[image]))


def seed_of(*parts: Any) -> int:
    """A seed of 63 bits that follows from ``parts`` alone."""
    return int(sha256_bytes(":".join(map(str, parts)).encode())[:16], 16) >> 1
