"""LLaVA-style models: a CLIP vision tower, a projector of two layers and a Vicuna or Llama.

AuroraCap is one. Every image becomes a square of the tower's size and a fixed number of tokens, or
the fewer that token merging keeps; a video is its frames one after the other.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

from shardline.llava_models import (
    PROJECTOR,
    TOWER,
    build_model,
    check_model,
    load_model,
    load_tokenizer,
    lora_targets,
    module_of,
    set_image_limits,
    unread,
)
from shardline.llava_vision import (
    MERGE,
    PATCH,
    Merging,
    expand,
    kept_tokens,
    media_grid,
    merging_of,
    on_picture,
    position_inputs,
    positions,
    resize,
    seen_size,
    stored_inputs,
    vision_inputs,
    visual_tokens,
)
from shardline.model_weights import (
    ATTENTION,
)
from shardline.vicuna_chat import (
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    chat_template,
    encode,
    render,
    train_tokenizer,
)

__all__ = [
    "ATTENDS_WITHIN_FRAMES",
    "ATTENTION",
    "MERGE",
    "PATCH",
    "PLACEHOLDERS",
    "PROJECTOR",
    "SPECIAL_TOKENS",
    "TOWER",
    "UNUSABLE_ANSWERS",
    "Merging",
    "build_model",
    "chat_template",
    "check_model",
    "encode",
    "expand",
    "kept_tokens",
    "load_model",
    "load_tokenizer",
    "lora_targets",
    "media_grid",
    "merging_of",
    "module_of",
    "on_picture",
    "position_inputs",
    "positions",
    "render",
    "resize",
    "seen_size",
    "set_image_limits",
    "stored_inputs",
    "train_tokenizer",
    "unread",
    "vision_inputs",
    "visual_tokens",
]

ATTENDS_WITHIN_FRAMES = False  # the tower takes a batch of images
UNUSABLE_ANSWERS = {"style": ("tags",), "frame": ("pixel",)}
"""Ways to write coordinates that the family has no tokens, or no unambiguous size, for."""
