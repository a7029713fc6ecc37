"""Qwen2-VL: how conversations become tokens, images become patches, and models are built and read.

Text is the Qwen-VL chat format (`shardline.qwen_chat`); an image is 14-pixel patches, merged two by
two into one token; positions have three rows (time, height, width).

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from shardline.errors import ConfigError, DataError, SampleError
from shardline.files import read_json, sha256_bytes, write_json
from shardline.qwen_chat import (
    END_OF_TEXT,
    END_OF_TURN,
    PLACEHOLDER,
    SPECIAL_TOKENS,
    chat_template,
    encode,
    render,
    train_tokenizer,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "ATTENDS_WITHIN_FRAMES",
    "MERGE",
    "PATCH",
    "PLACEHOLDER",
    "SPECIAL_TOKENS",
    "build_model",
    "chat_template",
    "encode",
    "expand",
    "image_grid",
    "load_model",
    "load_tokenizer",
    "lora_targets",
    "module_of",
    "positions",
    "render",
    "resize_image",
    "train_tokenizer",
    "vision_inputs",
    "visual_tokens",
]

MERGE = 2
ATTENDS_WITHIN_FRAMES = True  # the vision tower looks at one image (or frame) at a time
PATCH = 14
TEMPORAL_PATCH = 2
MAX_ASPECT = 200
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's, as in preprocessor_config.json
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
ATTENTION = "shardline_varlen"

Grid = tuple[int, int, int]
"""(time, height, width) of a medium, in patches."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, from its ``tokenizer.json`` alone.

    Raises:
        DataError: there is no such file, or a special token of the family is missing in it.
    """
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"{file}: no such file; a model folder has the tokenizer of its model")
    tokenizer = Tokenizer.from_file(str(file))
    for token in SPECIAL_TOKENS:
        if tokenizer.token_to_id(token) is None:
            raise DataError(f"{file}: has no token {token}; it is not a Qwen2-VL tokenizer")
    return tokenizer


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


def resize_image(image: Image.Image, grid: Grid) -> Image.Image:
    """An RGB image at the size of its grid (bicubic): the pixels that the model sees.

    First the width, then the height, as torchvision does: Pillow takes the cheaper order, and the
    rounding in between makes up to 20 steps of difference where one side grows and one shrinks.
    """
    width, height = grid[2] * PATCH, grid[1] * PATCH
    wide = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return wide.resize((width, height), Image.Resampling.BICUBIC)


def visual_tokens(grid: Sequence[int]) -> int:
    """Into how many tokens a medium's placeholder expands."""
    return int(grid[0]) * int(grid[1]) * int(grid[2]) // MERGE**2


def expand(
    input_ids: np.ndarray, labels: np.ndarray, grids: Sequence[Grid], placeholder: int
) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each placeholder id as often as its medium has tokens.

    Args:
        input_ids, labels: [L], one placeholder a medium.
        grids: of the media, in order.
        placeholder: the tokenizer's id of `PLACEHOLDER`.

    Raises:
        DataError: there are more or fewer placeholders than grids.
    """
    places = np.flatnonzero(input_ids == placeholder)
    if len(places) != len(grids):
        raise DataError(f"{len(places)} placeholders for {len(grids)} media")
    counts = np.ones(len(input_ids), dtype=np.int64)
    counts[places] = [visual_tokens(grid) for grid in grids]
    return np.repeat(input_ids, counts), np.repeat(labels, counts)


def positions(input_ids: np.ndarray, grids: Sequence[Grid], placeholder: int) -> np.ndarray:
    """Rotary positions int64 [3, L] (time, height, width) of one expanded sample.

    Text counts on in all three rows; an image counts its rows and columns of tokens from the
    current position, which then moves on by the longer side (``get_rope_index`` of the model).

    Raises:
        DataError: the placeholders are not what the grids expand to.
    """
    rows = np.empty((3, len(input_ids)), dtype=np.int64)
    media = np.flatnonzero(input_ids == placeholder)
    sizes = [visual_tokens(grid) for grid in grids]
    if len(media) != sum(sizes):
        raise DataError(f"{len(media)} placeholders where the media have {sum(sizes)} tokens")
    done, taken, now = 0, 0, 0
    for grid, size in zip(grids, sizes, strict=True):
        start = int(media[taken])
        rows[:, done:start] = np.arange(now, now + start - done)
        now += start - done
        time, height, width = grid[0], grid[1] // MERGE, grid[2] // MERGE
        rows[:, start : start + size] = now + np.indices((time, height, width)).reshape(3, -1)
        now += max(height, width)
        done, taken = start + size, taken + size
    rows[:, done:] = np.arange(now, now + len(input_ids) - done)
    return rows


def vision_inputs(
    images: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """What the vision tower reads, computed on ``device`` from resized images.

    Args:
        images: uint8 [height, width, 3], each of the size of its grid.

    Returns:
        ``pixel_values`` ``dtype`` [patches, 3 * 2 * 14 * 14] and ``image_grid_thw`` int64 [n, 3],
        in fp32 bit-equal to the HF processor's; both empty for no images.
    """
    import torch

    patches = [torch.empty(0, 3, PATCH * PATCH, dtype=torch.uint8, device=device)]
    for image, (_, height, width) in zip(images, grids, strict=True):
        if image.shape != (height * PATCH, width * PATCH, 3):
            raise DataError(f"an image of shape {tuple(image.shape)} for the grid {height}x{width}")
        blocks = image.to(device, non_blocking=True).reshape(
            height // MERGE, MERGE, PATCH, width // MERGE, MERGE, PATCH, 3
        )
        patches.append(blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, PATCH * PATCH))
    mean = torch.tensor(IMAGE_MEAN, device=device) * 255.0
    std = torch.tensor(IMAGE_STD, device=device) * 255.0
    pixels = torch.cat(patches).to(torch.float32).sub_(mean[:, None]).div_(std[:, None]).to(dtype)
    pixels = pixels.unsqueeze(2).expand(-1, -1, TEMPORAL_PATCH, -1)
    return {
        "pixel_values": pixels.reshape(-1, 3 * TEMPORAL_PATCH * PATCH * PATCH),
        "image_grid_thw": torch.tensor(grids, dtype=torch.int64, device=device).reshape(-1, 3),
    }


def load_model(folder: Path, dtype: torch.dtype, device: torch.device | str) -> torch.nn.Module:
    """The model of a folder, with packed attention and no KV cache (a forward for training).

    The caller imports `shardline.attention` first, which registers that attention: imported here,
    its code would be part of the fingerprint of every tokenised shard.

    Raises:
        DataError: a weight is missing, unexpected or of another shape (transformers would go on
            with random values).
    """
    from transformers import Qwen2VLForConditionalGeneration

    model, report = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=ATTENTION, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, report[problem])):
            raise DataError(f"{folder}: {problem.replace('_', ' ')}: {', '.join(keys[:5])}")
    model.config.use_cache = False
    model.config.text_config.use_cache = False
    model.model.visual.patch_embed.proj.__class__ = _patch_product()
    return model.to(device)


@cache
def _patch_product() -> type[torch.nn.Conv3d]:
    """A Conv3d whose input is as large as its kernel, run as the matrix product that it is.

    The kernels of Conv3d took three times as long on a CPU, forward and backward.
    """
    import torch

    class PatchProduct(torch.nn.Conv3d):
        def forward(self, patches):
            product = torch.nn.functional.linear(patches.flatten(1), self.weight.flatten(1))
            return product[:, :, None, None, None]

    return PatchProduct


def module_of(parameter_name: str) -> str:
    """``llm``, ``projector`` or ``vision``: the part of the model that a parameter belongs to."""
    parts = parameter_name.split(".")
    if "visual" not in parts:
        return "llm"
    return "projector" if parts[parts.index("visual") + 1] == "merger" else "vision"


def lora_targets(model: torch.nn.Module, module: str) -> list[str]:
    """Full names of the linear layers of a module, without ``lm_head`` (it may be tied)."""
    import torch

    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and module_of(name) == module
        and name.split(".")[-1] != "lm_head"
    ]


def build_model(config: Mapping[str, Any], tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Write a randomly initialised model that stock transformers loads, with our chat template.

    Weights are drawn per parameter name from (``seed``, name), normal with the module's
    ``initializer_range`` (text and vision config; the projector uses the vision's), norms one,
    biases zero: the same on every machine and in every version of torch.

    Args:
        config: ``text_config``, ``vision_config`` and ``image_processor`` as transformers has
            them; optionally ``tie_word_embeddings`` (default true) and ``initializer_range``, for
            both where they do not say their own.
        tokenizer: with all `SPECIAL_TOKENS`; its ids are looked up by name.

    Raises:
        ConfigError: transformers refuses the config, or its patches are not the family's.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    for key, expected in (("patch_size", PATCH), ("spatial_merge_size", MERGE)):
        if config["vision_config"].get(key, expected) != expected:
            raise ConfigError(f"model config: vision_config.{key} must be {expected}")
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    ends = {"eos_token_id": ids[END_OF_TURN], "pad_token_id": ids[END_OF_TEXT]}
    spread = {key: config[key] for key in ("initializer_range",) if key in config}
    try:
        model = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(
                text_config={
                    **spread,
                    **config["text_config"],
                    **ends,
                    "bos_token_id": ids[END_OF_TEXT],
                    "vocab_size": tokenizer.get_vocab_size(),
                },
                vision_config={**spread, **config["vision_config"]},
                image_token_id=ids[PLACEHOLDER],
                video_token_id=ids["<|video_pad|>"],
                vision_start_token_id=ids["<|vision_start|>"],
                vision_end_token_id=ids["<|vision_end|>"],
                tie_word_embeddings=config.get("tie_word_embeddings", True),
                dtype="float32",
            )
        )
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"model config: transformers refuses it: {error}") from error
    _initialise(model, seed)
    model.generation_config.update(**ends, bos_token_id=ids[END_OF_TEXT], do_sample=False)
    model.save_pretrained(folder)
    _processor(tokenizer, config["image_processor"]).save_pretrained(folder)


def set_image_limits(folder: Path, min_visual_tokens: int, max_visual_tokens: int) -> None:
    """Make a model folder's saved processor resize images within these numbers of visual tokens."""
    side = PATCH * MERGE
    limits = {
        "shortest_edge": min_visual_tokens * side**2,
        "longest_edge": max_visual_tokens * side**2,
    }
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            image = config.get("image_processor", config)
            image["size"] = limits
            for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
                if old in image:
                    image[old] = limits[new]
            write_json(folder / name, config)


def _initialise(model: torch.nn.Module, seed: int) -> None:
    import torch

    std = {
        "llm": model.config.text_config.initializer_range,
        "projector": model.config.vision_config.initializer_range,
        "vision": model.config.vision_config.initializer_range,
    }
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind == "bias":
            values = np.zeros(parameter.shape, dtype=np.float32)
        elif "norm" in type(model.get_submodule(owner)).__name__.lower():
            values = np.ones(parameter.shape, dtype=np.float32)
        else:
            key = int(sha256_bytes(f"{seed}:{name}".encode())[:32], 16)
            generator = np.random.Generator(np.random.Philox(key=key))
            values = generator.standard_normal(parameter.shape, dtype=np.float32)
            values *= np.float32(std[module_of(name)])
        parameter.data.copy_(torch.from_numpy(values))


def _processor(tokenizer: Tokenizer, image_options: Mapping[str, Any]) -> Any:
    """The HF processor of a tokenizer: its text side reproduces `render`, its image side ours."""
    import json

    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    model = json.loads(tokenizer.to_str())["model"]
    text = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
    for token in SPECIAL_TOKENS:
        if text.convert_tokens_to_ids(token) != tokenizer.token_to_id(token):
            raise DataError(f"the saved tokenizer gives {token} another id")
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**image_options),
        tokenizer=text,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=chat_template(),
    )
