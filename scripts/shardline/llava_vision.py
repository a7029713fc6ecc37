"""How LLaVA-style models see: squares of one size, with a fixed number of tokens or fewer.

Token merging in the vision tower makes them fewer; how many is left is known beforehand. Positions
are plain.

Nothing here imports torch before a function that needs it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardline.errors import DataError
from shardline.files import read_json
from shardline.placeholders import media_types, repeat_placeholders
from shardline.resizing import resize_bicubic

if TYPE_CHECKING:
    import torch

MERGE = 1
PATCH = 14
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's, and DFN's
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
FILL = tuple(int(value * 255) for value in IMAGE_MEAN)  # around a picture that is no square

Grid = tuple[int, int, int]
"""(frames, height, width) of a medium, in patches."""


class Merging(NamedTuple):
    """Token merging in the vision tower."""

    ratio: float
    """Share of the patches that the tower is asked to keep; what it keeps is more."""
    layers: int
    """Of the tower; the last one's merging comes after the features were taken."""
    slowfast: bool = False
    """Keep all of the first frame of a video."""


def media_grid(width: int, height: int, frames: int | None, options: Mapping[str, Any]) -> Grid:
    """The grid of an image, or of a video of which ``frames`` frames are taken.

    Args:
        width, height: of the image or a frame; every one becomes a square of the same size.
        options: of the tokens: ``image_side``, in pixels.
    """
    side = options["image_side"] // PATCH
    return frames or 1, side, side


def resize(frames: Sequence[np.ndarray], grid: Grid, options: Mapping[str, Any]) -> np.ndarray:
    """Pixels uint8 [frames * side, side, 3] of a medium as squares, one below the other.

    Args:
        options: of the tokens: ``fit``: ``pad`` to a square with the mean colour, or ``crop`` one
            out of the middle.
    """
    side, _ = seen_size(grid)
    square = _padded if options["fit"] == "pad" else _cropped
    squares = [square(frame, side) for frame in frames]
    return squares[0] if len(squares) == 1 else np.concatenate(squares)


def on_picture(
    values: Sequence[float], width: int, height: int, options: Mapping[str, Any]
) -> list[float]:
    """Alternating x, y fractions of an image as fractions of the square that it becomes."""
    side = max(width, height) if options["fit"] == "pad" else min(width, height)
    sizes = (width, height)
    return [
        (value * sizes[place % 2] + (side - sizes[place % 2]) / 2) / side
        for place, value in enumerate(values)
    ]


def _padded(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width, _ = pixels.shape
    if width != height:
        longest = max(width, height)
        left, top = (longest - width) // 2, (longest - height) // 2
        square = np.full((longest, longest, 3), FILL, dtype=np.uint8)
        square[top : top + height, left : left + width] = pixels
        pixels = square
    return resize_bicubic(pixels, side, side)


def _cropped(pixels: np.ndarray, side: int) -> np.ndarray:
    shortest = min(pixels.shape[:2])
    height, width = (
        side if length == shortest else int(side * length / shortest) for length in pixels.shape[:2]
    )
    left, top = (width - side) // 2, (height - side) // 2
    return resize_bicubic(pixels, width, height)[top : top + side, left : left + side]


def seen_size(grid: Sequence[int]) -> tuple[int, int]:
    """Width and height in pixels of what the model sees of an image or a frame."""
    return int(grid[2]) * PATCH, int(grid[1]) * PATCH


def merging_of(section: Mapping[str, Any], folder: Path) -> Merging:
    """The token merging of a stage in the tower of the model in a folder.

    Args:
        section: ``ratio`` and ``slowfast``.
        folder: has the model's ``config.json``.

    Raises:
        DataError: there is none, or it tells no number of layers.
    """
    config = read_json(folder / "config.json")
    layers = config.get("vision_config", {}).get("num_hidden_layers")
    if not isinstance(layers, int):
        raise DataError(f"{folder / 'config.json'}: vision_config has no num_hidden_layers")
    return Merging(section["ratio"], layers, section["slowfast"])


def merged_a_layer(patches: int, merging: Merging) -> int:
    """How many of a picture's patches each layer of the tower merges."""
    return int(patches * (1 - merging.ratio) / merging.layers)


def kept_tokens(patches: int, merging: Merging) -> int:
    """How many of a picture's patches are left by the layer that the features are taken from.

    Each of ``layers`` layers merges the same number, of which all but the last count.
    """
    return patches - (merging.layers - 1) * merged_a_layer(patches, merging)


def visual_tokens(grid: Sequence[int], merging: Merging | None = None) -> int:
    """Into how many tokens a medium's placeholder expands."""
    frames, patches = int(grid[0]), int(grid[1]) * int(grid[2])
    if merging is None:
        return frames * patches
    kept = kept_tokens(patches, merging)
    whole = sum(whole_frames([grid], merging))
    return whole * patches + (frames - whole) * kept


def whole_frames(grids: Sequence[Sequence[int]], merging: Merging) -> list[bool]:
    """Of each frame of all media whether it keeps all its patches."""
    return [
        merging.slowfast and frames > 1 and frame == 0
        for frames, _, _ in grids
        for frame in range(int(frames))
    ]


def expand(
    input_ids: np.ndarray,
    labels: np.ndarray,
    grids: Sequence[Grid],
    placeholders: Sequence[int],
    merging: Merging | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [L] with each placeholder as often as its medium has tokens.

    Raises:
        DataError: there are more or fewer placeholders than grids.
    """
    sizes = [visual_tokens(grid, merging) for grid in grids]
    return repeat_placeholders(input_ids, labels, sizes, placeholders)


def positions(
    input_ids: np.ndarray,
    grids: Sequence[Grid],
    placeholders: Sequence[int],
    intervals: Sequence[float] = (),
    merging: Merging | None = None,
) -> np.ndarray:
    """Positions int64 [1, L] of one expanded sample: it counts on, through media as through text.

    Raises:
        DataError: the placeholders are not what the grids expand to.
    """
    found = int(np.count_nonzero(media_types(input_ids, placeholders)))
    if found != (size := sum(visual_tokens(grid, merging) for grid in grids)):
        raise DataError(f"{found} placeholders where the media have {size} tokens")
    return np.arange(len(input_ids), dtype=np.int64)[None]


def position_inputs(
    token_types: torch.Tensor, types: Sequence[int], intervals: Sequence[float]
) -> dict[str, torch.Tensor]:
    """What a stock forward reads to place positions: nothing."""
    return {}


def vision_inputs(
    images: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    dtype: torch.dtype,
    types: Sequence[int] | None = None,
    merging: Merging | None = None,
) -> dict[str, torch.Tensor]:
    """What the vision tower reads, computed on ``device`` from resized pictures.

    Args:
        images: uint8 [frames * side, side, 3] each.

    Returns:
        ``pixel_values`` ``dtype`` [frames, 3, side, side], in fp32 bit-equal to the HF processor's,
        and ``image_sizes``, which of them stay whole, if any does (`token_merging.MergingLlava`);
        nothing for no images.
    """
    import torch

    if not images:
        return {}
    frames = []
    for image, grid in zip(images, grids, strict=True):
        width, height = seen_size(grid)
        if image.shape != (grid[0] * height, width, 3):
            raise DataError(f"an image of shape {tuple(image.shape)} for the grid {grid}")
        picture = image.to(device, non_blocking=True).reshape(grid[0], height, width, 3)
        frames.append(picture.permute(0, 3, 1, 2))
    mean = torch.tensor(IMAGE_MEAN, device=device)[:, None, None] * 255.0
    std = torch.tensor(IMAGE_STD, device=device)[:, None, None] * 255.0
    pixels = torch.cat(frames).to(torch.float32).sub_(mean).div_(std)
    whole = whole_frames(grids, merging) if merging else []
    return {
        "pixel_values": pixels.to(dtype),
        **({"image_sizes": torch.tensor(whole)} if any(whole) else {}),
    }


def stored_inputs(
    features: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    types: Sequence[int],
) -> dict[str, torch.Tensor]:
    """What a forward that takes features reads: rows [visual tokens, width] where pixels are."""
    import torch

    moved = [part.to(device, non_blocking=True) for part in features]
    return {"pixel_values": torch.cat(moved)} if moved else {}
