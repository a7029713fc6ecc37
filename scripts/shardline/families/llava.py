"""LLaVA-style models: a CLIP vision tower, a projector of two layers and a Vicuna or Llama.

AuroraCap is one. Every image becomes a square of the tower's size and a fixed number of tokens, or
the fewer that token merging keeps; a video is its frames one after the other. Positions are plain.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from shardline.errors import ConfigError, DataError
from shardline.files import read_json
from shardline.model_weights import ATTENTION, draw_weights, linear_layers, load_weights
from shardline.placeholders import media_types, repeat_placeholders
from shardline.vicuna_chat import (
    BEGIN,
    END,
    PAD,
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    UNKNOWN,
    chat_template,
    encode,
    render,
    train_tokenizer,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "ATTENDS_WITHIN_FRAMES",
    "ATTENTION",
    "MERGE",
    "PATCH",
    "PLACEHOLDERS",
    "SPECIAL_TOKENS",
    "build_model",
    "chat_template",
    "check_model",
    "encode",
    "expand",
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
    "seen_size",
    "set_image_limits",
    "train_tokenizer",
    "vision_inputs",
    "visual_tokens",
]

ATTENDS_WITHIN_FRAMES = False  # the tower takes a batch of images
MERGE = 1
PATCH = 14
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's, and DFN's
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
FILL = tuple(int(value * 255) for value in IMAGE_MEAN)  # around a picture that is no square

UNUSABLE_ANSWERS = {"style": ("tags",), "frame": ("pixel",)}
"""Ways to write coordinates that the family has no tokens, or no unambiguous size, for."""

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


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, from its ``tokenizer.json`` alone.

    Raises:
        DataError: there is no such file, or a token of the chat format is missing in it.
    """
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"{file}: no such file; a model folder has the tokenizer of its model")
    tokenizer = Tokenizer.from_file(str(file))
    for token in (BEGIN, END, *PLACEHOLDERS):
        if tokenizer.token_to_id(token) is None:
            raise DataError(f"{file}: has no token {token}; it is not a LLaVA tokenizer")
    return tokenizer


def check_model(folder: Path, options: Mapping[str, Any]) -> None:
    """See that a model, if more than its tokenizer is there, reads pictures of ``image_side``.

    Raises:
        ConfigError: it does not.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    side = config.get("vision_config", {}).get("image_size", options["image_side"])
    if side != options["image_side"]:
        raise ConfigError(
            f"tokens.image_side = {options['image_side']}: the model in {folder} reads pictures of "
            f"{side} x {side} pixels; allowed: {side}"
        )


def media_grid(width: int, height: int, frames: int | None, options: Mapping[str, Any]) -> Grid:
    """The grid of an image, or of a video of which ``frames`` frames are taken.

    Args:
        width, height: of the image or a frame; every one becomes a square of the same size.
        options: of the tokens: ``image_side``, in pixels.
    """
    side = options["image_side"] // PATCH
    return frames or 1, side, side


def resize(frames: Sequence[Image.Image], grid: Grid, options: Mapping[str, Any]) -> Image.Image:
    """The frames of a medium as squares, one below the other in one picture.

    Args:
        options: of the tokens: ``fit``: ``pad`` to a square with the mean colour, or ``crop`` one
            out of the middle.
    """
    side, _ = seen_size(grid)
    square = _padded if options["fit"] == "pad" else _cropped
    picture = Image.new("RGB", (side, side * len(frames)))
    for number, frame in enumerate(frames):
        picture.paste(square(frame, side), (0, number * side))
    return picture


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


def _padded(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    longest = max(width, height)
    if width != height:
        square = Image.new("RGB", (longest, longest), FILL)
        square.paste(image, ((longest - width) // 2, (longest - height) // 2))
        image = square
    return _scaled(image, side, side)


def _cropped(image: Image.Image, side: int) -> Image.Image:
    shortest = min(image.size)
    width, height = (
        side if length == shortest else int(side * length / shortest) for length in image.size
    )
    left, top = (width - side) // 2, (height - side) // 2
    return _scaled(image, width, height).crop((left, top, left + side, top + side))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic, first the width, then the height, as torchvision does."""
    wide = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return wide.resize((width, height), Image.Resampling.BICUBIC)


def seen_size(grid: Sequence[int]) -> tuple[int, int]:
    """Width and height in pixels of what the model sees of an image or a frame."""
    return int(grid[2]) * PATCH, int(grid[1]) * PATCH


def kept_tokens(patches: int, merging: Merging) -> int:
    """How many of a picture's patches are left by the layer that the features are taken from.

    Each of ``layers`` layers merges the same number, of which all but the last count.
    """
    merged = int(patches * (1 - merging.ratio) / merging.layers)
    return patches - (merging.layers - 1) * merged


def visual_tokens(grid: Sequence[int], merging: Merging | None = None) -> int:
    """Into how many tokens a medium's placeholder expands."""
    frames, patches = int(grid[0]), int(grid[1]) * int(grid[2])
    if merging is None:
        return frames * patches
    kept = kept_tokens(patches, merging)
    whole = 1 if merging.slowfast and frames > 1 else 0
    return whole * patches + (frames - whole) * kept


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
) -> dict[str, torch.Tensor]:
    """What the vision tower reads, computed on ``device`` from resized pictures.

    Args:
        images: uint8 [frames * side, side, 3] each.

    Returns:
        ``pixel_values`` ``dtype`` [frames, 3, side, side], in fp32 bit-equal to the HF processor's;
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
    return {"pixel_values": pixels.to(dtype)}


def load_model(folder: Path, dtype: torch.dtype, device: torch.device | str) -> torch.nn.Module:
    """The model of a folder; see `load_weights`.

    Raises:
        DataError: the weights or the vision tower are other ones.
    """
    from transformers import LlavaForConditionalGeneration

    model = load_weights(LlavaForConditionalGeneration, folder, dtype)
    if (patch := model.config.vision_config.patch_size) != PATCH:
        raise DataError(f"{folder}: its vision config has patch_size {patch}, not {PATCH}")
    if model.config.vision_feature_select_strategy != "default":
        raise DataError(f"{folder}: it keeps the class token, which is no patch of a picture")
    return model.to(device)


def module_of(parameter_name: str) -> str:
    """``llm``, ``projector`` or ``vision``: the part of the model that a parameter belongs to."""
    parts = parameter_name.split(".")
    if "vision_tower" in parts:
        return "vision"
    return "projector" if "multi_modal_projector" in parts else "llm"


def lora_targets(model: torch.nn.Module, module: str) -> list[str]:
    """Full names of the linear layers of a module, without ``lm_head``."""
    return linear_layers(model, module, module_of)


def set_image_limits(folder: Path, min_visual_tokens: int, max_visual_tokens: int) -> None:
    """Nothing to set: every image has the tower's size."""


def build_model(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Write a randomly initialised model that stock transformers loads, with our chat template.

    Args:
        config: ``text_config`` (Llama) and ``vision_config`` (CLIP) as transformers has them, and
            ``image_processor``: ``do_pad`` as ``fit`` of the tokens; optionally
            ``tie_word_embeddings`` (default false) and ``initializer_range``, for both where they
            do not say their own.
        tokenizer: with all `SPECIAL_TOKENS`; its ids are looked up by name.

    Raises:
        ConfigError: transformers refuses the config, or its patches are not the family's.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if config["vision_config"].get("patch_size", PATCH) != PATCH:
        raise ConfigError(f"model config: vision_config.patch_size must be {PATCH}")
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    special = {"bos_token_id": ids[BEGIN], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    spread = {key: config[key] for key in ("initializer_range",) if key in config}
    vision = {**spread, **config["vision_config"], "patch_size": PATCH}
    try:
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                text_config={
                    "model_type": "llama",
                    **spread,
                    **config["text_config"],
                    **special,
                    "vocab_size": tokenizer.get_vocab_size(),
                },
                vision_config={"model_type": "clip_vision_model", **vision},
                image_token_index=ids[PLACEHOLDERS[0]],
                image_seq_length=(vision["image_size"] // PATCH) ** 2,
                tie_word_embeddings=config.get("tie_word_embeddings", False),
                dtype="float32",
            )
        )
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"model config: transformers refuses it: {error}") from error
    ranges = {
        "llm": model.config.text_config.initializer_range,
        "projector": model.config.vision_config.initializer_range,
        "vision": model.config.vision_config.initializer_range,
    }
    draw_weights(model, seed, ranges, module_of)
    model.generation_config.update(**special, do_sample=False)
    model.save_pretrained(folder)
    side = vision["image_size"]
    _processor(tokenizer, side, config["image_processor"]).save_pretrained(folder)


def _processor(tokenizer: Tokenizer, side: int, image_options: Mapping[str, Any]) -> Any:
    """The HF processor of a tokenizer: its text side reproduces `render`, its image side ours."""
    from transformers import LlamaTokenizer, LlavaImageProcessor, LlavaProcessor

    model = json.loads(tokenizer.to_str())["model"]
    text = LlamaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        add_bos_token=True,
        extra_special_tokens=list(PLACEHOLDERS),
    )
    for token in SPECIAL_TOKENS:
        if text.convert_tokens_to_ids(token) != tokenizer.token_to_id(token):
            raise DataError(f"the saved tokenizer gives {token} another id")
    return LlavaProcessor(
        image_processor=LlavaImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            **image_options,
        ),
        tokenizer=text,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=PLACEHOLDERS[0],
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )
