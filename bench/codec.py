"""What it costs to store a resized picture: ours against other ways, on screens and photographs.

Milliseconds of one core and kilobytes, each a megapixel; for the codec with loss also by how many
of 255 steps a pixel is off on average.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from conversations import LIMITS, PHOTOGRAPHS, SCREENS, conversations
from PIL import Image

from shardline.families import qwen2_vl as family
from shardline.pixels import decode_pixels
from shardline.png import decode_png, encode_png

PICTURES = 12
ROUNDS = 3


class Codec(NamedTuple):
    """A way to store pixels uint8 [height, width, 3]."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def _by_pillow(kind: str, **options: int) -> Codec:
    def encode(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()

    return Codec(encode, lambda data: np.asarray(Image.open(io.BytesIO(data))))


CODECS = {
    "png": Codec(encode_png, decode_png),
    "pillow_png": _by_pillow("PNG", compress_level=1),
    "jpeg_95": _by_pillow("JPEG", quality=95, subsampling=0),
}


def measure(pictures: int = PICTURES) -> dict[str, float]:
    """Milliseconds to write and to read, and kilobytes, a megapixel, of each way."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for name, kind in (("screens", SCREENS), ("photographs", PHOTOGRAPHS)):
        resized = []
        for sample, data in conversations([kind], pictures):
            medium = sample.media[0]
            grid = family.image_grid(medium.width, medium.height, *LIMITS.values())
            resized.append(family.resize_image(decode_pixels(data), grid))
        for codec in CODECS:
            figures |= {f"codec.{name}.{codec}.{k}": v for k, v in _cost(codec, resized).items()}
    return figures


def _cost(name: str, pictures: Sequence[np.ndarray]) -> dict[str, float]:
    codec = CODECS[name]
    megapixels = sum(pixels.size for pixels in pictures) / 3e6
    write, files = _fastest(codec.encode, pictures)
    read, back = _fastest(codec.decode, files)
    off = [
        np.abs(one.astype(int) - other).mean() for one, other in zip(pictures, back, strict=True)
    ]
    cost = {
        "write_ms": round(1000 * write / megapixels, 1),
        "read_ms": round(1000 * read / megapixels, 1),
        "kilobytes": round(sum(map(len, files)) / megapixels / 1000),
    }
    return cost | ({"off": round(float(np.mean(off)), 2)} if any(off) else {})


def _fastest(work: Callable, items: Sequence) -> tuple[float, list]:
    """Processor seconds of the fastest round over all items, and what they became."""
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        done = [work(item) for item in items]
        seconds.append(time.process_time() - begin)
    return min(seconds), done


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
