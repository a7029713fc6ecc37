"""Qwen2.5-VL: the Qwen-VL chat format and vision; positions of a video follow its seconds.

Its vision tower attends in windows of 112 pixels in most layers, which is the model's own matter.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from shardline import qwen_models
from shardline.model_weights import ATTENTION
from shardline.qwen_chat import (
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    chat_template,
    encode,
    render,
    train_tokenizer,
)
from shardline.qwen_models import (
    PROJECTOR,
    TOWER,
    load_tokenizer,
    lora_targets,
    module_of,
    set_image_limits,
)
from shardline.qwen_vision import (
    MERGE,
    PATCH,
    TEMPORAL_PATCH,
    Grid,
    expand,
    image_grid,
    media_grid,
    on_picture,
    resize,
    resize_image,
    seen_size,
    stored_inputs,
    vision_inputs,
    visual_tokens,
)
from shardline.qwen_vision import positions as qwen_positions

if TYPE_CHECKING:
    import torch

__all__ = [
    "ATTENDS_WITHIN_FRAMES",
    "ATTENDS_WITHIN_WINDOWS",
    "ATTENTION",
    "MERGE",
    "PATCH",
    "PLACEHOLDERS",
    "PROJECTOR",
    "SPECIAL_TOKENS",
    "TOWER",
    "build_model",
    "chat_template",
    "check_model",
    "encode",
    "expand",
    "image_grid",
    "load_model",
    "load_tokenizer",
    "lora_targets",
    "media_grid",
    "module_of",
    "on_picture",
    "position_inputs",
    "positions",
    "render",
    "resize",
    "resize_image",
    "seen_size",
    "set_image_limits",
    "stored_inputs",
    "train_tokenizer",
    "vision_inputs",
    "visual_tokens",
]

ATTENDS_WITHIN_FRAMES = False  # in most layers of the vision tower it is within windows
ATTENDS_WITHIN_WINDOWS = True  # whose bounds the tower works out, of frames or of windows
NAME = "Qwen2_5_VL"
TOKENS_PER_SECOND = 2  # of the published models; transformers' own default is 4
VISION = {"tokens_per_second": TOKENS_PER_SECOND}


def positions(
    input_ids: np.ndarray,
    grids: Sequence[Grid],
    placeholders: Sequence[int],
    intervals: Sequence[float] = (),
) -> np.ndarray:
    """Rotary positions int64 [3, L] of one expanded sample; see `qwen_vision.positions`."""
    return qwen_positions(
        input_ids, grids, placeholders, intervals, tokens_per_second=TOKENS_PER_SECOND
    )


def position_inputs(
    token_types: torch.Tensor, types: Sequence[int], intervals: Sequence[float]
) -> dict[str, torch.Tensor]:
    """What a stock forward reads to place positions; see `qwen_vision.position_inputs`."""
    import torch

    inputs = {"mm_token_type_ids": token_types}
    if 2 in types:
        seconds = [
            TEMPORAL_PATCH * interval
            for kind, interval in zip(types, intervals, strict=True)
            if kind == 2
        ]
        inputs["second_per_grid_ts"] = torch.tensor(seconds, device=token_types.device)
    return inputs


def check_model(folder: Path, options: Mapping[str, Any]) -> None:
    """See that a model has this family's vision; see `qwen_models.check_vision`."""
    qwen_models.check_vision(folder, VISION)


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device | str, **loading: Any
) -> torch.nn.Module:
    """The model of a folder; see `qwen_models.load_qwen`."""
    return qwen_models.load_qwen(NAME, folder, dtype, device, VISION, **loading)


def build_model(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Write a randomly initialised model; see `qwen_models.build_qwen`."""
    qwen_models.build_qwen(NAME, config, tokenizer, folder, seed, VISION)
