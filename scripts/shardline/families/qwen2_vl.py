"""Qwen2-VL: the Qwen-VL chat format and vision; each time of a video takes one position.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    expand,
    image_grid,
    media_grid,
    on_picture,
    patch_places,
    position_inputs,
    positions,
    resize,
    resize_image,
    seen_size,
    stored_inputs,
    vision_inputs,
    visual_tokens,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "ATTENDS_WITHIN_FRAMES",
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
    "patch_places",
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

ATTENDS_WITHIN_FRAMES = True  # the vision tower looks at one image (or two frames) at a time
NAME = "Qwen2VL"


def check_model(folder: Path, options: Mapping[str, Any]) -> None:
    """See that a model has this family's vision; see `qwen_models.check_vision`."""
    qwen_models.check_vision(folder)


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device | str, **loading: Any
) -> torch.nn.Module:
    """The model of a folder; see `qwen_models.load_qwen`."""
    return qwen_models.load_qwen(NAME, folder, dtype, device, **loading)


def build_model(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Write a randomly initialised model; see `qwen_models.build_qwen`."""
    qwen_models.build_qwen(NAME, config, tokenizer, folder, seed)
