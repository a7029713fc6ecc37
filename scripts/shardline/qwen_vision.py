"""How the Qwen-VL models see: sizes, patches and rotary positions of images and videos.

A medium is cut into patches of 14 pixels and 2 frames; two by two of them become one token. An
image is a video of one frame, which is taken twice.

Nothing here imports torch before a function that needs it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.errors import DataError, SampleError
from shardline.placeholders import media_types, repeat_placeholders
from shardline.resizing import resize_bicubic

if TYPE_CHECKING:
    import torch

MERGE = 2
PATCH = 14
TEMPORAL_PATCH = 2
MAX_ASPECT = 200
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's, as in preprocessor_config.json
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

Grid = tuple[int, int, int]
"""(time, height, width) of a medium, in patches."""


def image_grid(width: int, height: int, min_visual_tokens: int, max_visual_tokens: int) -> Grid:
    """The patch grid (1, h, w) that an image of ``width`` x ``height`` pixels is resized to.

    Both sides become multiples of 28 pixels, the number of tokens (h * w / 4) lies in the range,
    the aspect is kept as closely as that allows: ``smart_resize`` of the published processor.

    Raises:
        SampleError: ``aspect``: one side is over 200 times the other.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise SampleError(
            "aspect", f"{width}x{height} pixels: one side is over {MAX_ASPECT} times the other"
        )
    factor = PATCH * MERGE
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns > max_visual_tokens:
        shrink = math.sqrt(height * width / (max_visual_tokens * factor**2))
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns < min_visual_tokens:
        grow = math.sqrt(min_visual_tokens * factor**2 / (height * width))
        rows = math.ceil(height * grow / factor)
        columns = math.ceil(width * grow / factor)
    return 1, rows * MERGE, columns * MERGE


def media_grid(width: int, height: int, frames: int | None, options: Mapping[str, Any]) -> Grid:
    """The grid of an image, or of a video of which ``frames`` frames are taken.

    Args:
        width, height: of the image or a frame, in pixels.
        options: of the tokens: ``min_visual_tokens``, ``max_visual_tokens``; those of a video's
            frames are in ``video``.

    Raises:
        SampleError: as `image_grid`.
    """
    limits = options if frames is None else options["video"]
    _, rows, columns = image_grid(
        width, height, limits["min_visual_tokens"], limits["max_visual_tokens"]
    )
    return -(-(frames or 1) // TEMPORAL_PATCH), rows, columns


def resize_image(pixels: np.ndarray, grid: Grid) -> np.ndarray:
    """Pixels uint8 [height, width, 3] at the size of their grid."""
    return resize_bicubic(pixels, *seen_size(grid))


def resize(frames: Sequence[np.ndarray], grid: Grid, options: Mapping[str, Any]) -> np.ndarray:
    """Pixels uint8 [frames * height, width, 3] of a medium at the size of its grid.

    Args:
        frames: pixels uint8 [., ., 3] of each, which come one below the other.
    """
    resized = [resize_image(frame, grid) for frame in frames]
    return resized[0] if len(resized) == 1 else np.concatenate(resized)


def on_picture(
    values: Sequence[float], width: int, height: int, options: Mapping[str, Any]
) -> list[float]:
    """Alternating x, y fractions of an image as fractions of what the model sees: the same."""
    return list(values)


def seen_size(grid: Sequence[int]) -> tuple[int, int]:
    """Width and height in pixels of what the model sees of an image or a frame."""
    return int(grid[2]) * PATCH, int(grid[1]) * PATCH


def visual_tokens(grid: Sequence[int]) -> int:
    """Into how many tokens a medium's placeholder expands."""
    return int(grid[0]) * int(grid[1]) * int(grid[2]) // MERGE**2


def expand(
    input_ids: np.ndarray, labels: np.ndarray, grids: Sequence[Grid], placeholders: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [L] with each placeholder as often as its medium has tokens.

    Raises:
        DataError: there are more or fewer placeholders than grids.
    """
    sizes = [visual_tokens(grid) for grid in grids]
    return repeat_placeholders(input_ids, labels, sizes, placeholders)


def positions(
    input_ids: np.ndarray,
    grids: Sequence[Grid],
    placeholders: Sequence[int],
    intervals: Sequence[float] = (),
    *,
    tokens_per_second: int | None = None,
) -> np.ndarray:
    """Rotary positions int64 [3, L] (time, height, width) of one expanded sample.

    Text counts on in all three rows; a medium counts its times, rows and columns of tokens from
    the current position, which then moves on by the longer side (``get_rope_index`` of the model).

    Args:
        intervals: of each medium, in seconds from frame to frame; 0 for an image.
        tokens_per_second: positions that a second of a video takes; None: each time takes one.

    Raises:
        DataError: the placeholders are not what the grids expand to.
    """
    rows = np.empty((3, len(input_ids)), dtype=np.int64)
    types = media_types(input_ids, placeholders)
    media = np.flatnonzero(types)
    sizes = [visual_tokens(grid) for grid in grids]
    if len(media) != sum(sizes):
        raise DataError(f"{len(media)} placeholders where the media have {sum(sizes)} tokens")
    done, taken, now = 0, 0, 0
    for number, (grid, size) in enumerate(zip(grids, sizes, strict=True)):
        start = int(media[taken])
        rows[:, done:start] = np.arange(now, now + start - done)
        now += start - done
        time, height, width = grid[0], grid[1] // MERGE, grid[2] // MERGE
        places = np.indices((time, height, width)).reshape(3, -1)
        if tokens_per_second is not None and types[start] == 2:
            places[0] = _ticks(places[0], tokens_per_second, intervals[number])
        rows[:, start : start + size] = now + places
        now += max(height, width)
        done, taken = start + size, taken + size
    rows[:, done:] = np.arange(now, now + len(input_ids) - done)
    return rows


def _ticks(times: np.ndarray, tokens_per_second: int, interval: float) -> np.ndarray:
    """Positions of a video's times; in single precision, as the model computes them."""
    step = np.float32(tokens_per_second) * np.float32(TEMPORAL_PATCH * interval)
    return (times.astype(np.float32) * step).astype(np.int64)


def vision_inputs(
    images: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    dtype: torch.dtype,
    types: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """What the vision tower reads, computed on ``device`` from resized pictures.

    Args:
        images: uint8 [height, width, 3], each of the size of its grid; the frames of a video are
            below one another.
        types: 1 for an image, 2 for a video; None: all are images.

    Returns:
        ``pixel_values`` ``dtype`` [patches, 3 * 2 * 14 * 14] and ``image_grid_thw`` int64 [n, 3],
        in fp32 bit-equal to the HF processor's, if there are images; the same as
        ``pixel_values_videos`` and ``video_grid_thw``, if there are videos.
    """
    types = [1] * len(images) if types is None else types

    def pixels(chosen: Sequence[torch.Tensor], sizes: Sequence[Grid]) -> torch.Tensor:
        patches = [_patches(picture, grid) for picture, grid in zip(chosen, sizes, strict=True)]
        return _normalised(patches, device, dtype)

    return _by_kind(images, grids, device, types, pixels)


def stored_inputs(
    features: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    types: Sequence[int],
) -> dict[str, torch.Tensor]:
    """What a forward that takes features reads: rows [visual tokens, width] where pixels are."""
    import torch

    return _by_kind(features, grids, device, types, lambda chosen, _: torch.cat(chosen))


def _by_kind(
    media: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    types: Sequence[int],
    joined: Callable[[list[torch.Tensor], list[Grid]], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Images and videos under the names of the forward's keywords."""
    import torch

    inputs = {}
    for kind, values, sizes in (
        (1, "pixel_values", "image_grid_thw"),
        (2, "pixel_values_videos", "video_grid_thw"),
    ):
        chosen = [number for number, this in enumerate(types) if this == kind]
        if chosen:
            moved = [media[number].to(device, non_blocking=True) for number in chosen]
            sizes_of = [grids[number] for number in chosen]
            inputs[values] = joined(moved, sizes_of)
            inputs[sizes] = torch.tensor(sizes_of, dtype=torch.int64).to(device, non_blocking=True)
    return inputs


def position_inputs(
    token_types: torch.Tensor, types: Sequence[int], intervals: Sequence[float]
) -> dict[str, torch.Tensor]:
    """What a stock forward or ``generate`` reads to place positions as `positions` does.

    Args:
        token_types: [batch, L] as `media_types` of the expanded ids, on the model's device.
        types: of the media of the whole batch, in order.
        intervals: of the media, in seconds from frame to frame.
    """
    return {"mm_token_type_ids": token_types}


def _patches(picture: torch.Tensor, grid: Grid) -> torch.Tensor:
    """uint8 [patches, 3, frames, 14 * 14] of one medium; ``frames`` is 1 where both are equal."""
    import torch

    _, height, width = grid
    frames = len(picture) // (height * PATCH)
    if picture.shape != (frames * height * PATCH, width * PATCH, 3) or grid[0] != -(
        -frames // TEMPORAL_PATCH
    ):
        raise DataError(f"an image of shape {tuple(picture.shape)} for the grid {height}x{width}")
    deep = 1 if frames == 1 else TEMPORAL_PATCH
    if frames % deep:
        picture = torch.cat([picture, picture[-height * PATCH :]])
    blocks = picture.reshape(
        grid[0], deep, height // MERGE, MERGE, PATCH, width // MERGE, MERGE, PATCH, 3
    )
    return blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3, deep, PATCH * PATCH)


def _normalised(
    patches: Sequence[torch.Tensor], device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor:
    """Patches as the tower's rows [n, 3 * 2 * 14 * 14], with the mean taken off, in its spread."""
    import torch

    mean, std = _spread(device)
    deep = max(part.shape[2] for part in patches)
    raw = torch.cat([part.expand(-1, -1, deep, -1) for part in patches])
    pixels = raw.to(torch.float32).sub_(mean).div_(std).to(dtype)
    pixels = pixels.expand(-1, -1, TEMPORAL_PATCH, -1)
    return pixels.reshape(-1, 3 * TEMPORAL_PATCH * PATCH * PATCH)


@cache
def _spread(device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of pixels as bytes, fp32 [3, 1, 1]."""
    import torch

    mean, std = (torch.tensor(values, device=device) * 255.0 for values in (IMAGE_MEAN, IMAGE_STD))
    return mean[:, None, None], std[:, None, None]


def patch_places(grids: Sequence[Grid]) -> np.ndarray:
    """Row and column int64 [patches, 2] of each patch in its frame, in the tower's order."""
    places = []
    for time, height, width in grids:
        rows, columns = np.indices((height, width))
        both = np.stack([rows, columns], axis=-1)
        blocks = both.reshape(height // MERGE, MERGE, width // MERGE, MERGE, 2)
        places += [blocks.swapaxes(1, 2).reshape(-1, 2)] * time
    return np.concatenate(places)
