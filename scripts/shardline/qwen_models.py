"""Building, reading and saving the models of the Qwen-VL families.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from shardline.chat_tokens import read_tokenizer
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, write_json
from shardline.model_weights import build, linear_layers, load_weights
from shardline.qwen_chat import (
    END_OF_TEXT,
    END_OF_TURN,
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    chat_template,
)
from shardline.qwen_vision import MERGE, PATCH, TEMPORAL_PATCH

if TYPE_CHECKING:
    import torch

TOWER = "visual"
PROJECTOR = "visual.merger"
"""The vision tower and its last part, by their names in the model's ``model``."""
FIXED = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL_PATCH}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; see `read_tokenizer`."""
    return read_tokenizer(folder, SPECIAL_TOKENS, "Qwen-VL")


def check_vision(folder: Path, vision: Mapping[str, Any] | None = None) -> None:
    """See that a model, if more than its tokenizer is there, has the family's vision.

    Args:
        vision: keys of its vision config that must have these values, with `FIXED`.

    Raises:
        DataError: one has another value.
    """
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json").get("vision_config", {})
    for key, expected in {**FIXED, **(vision or {})}.items():
        if (found := config.get(key, expected)) != expected:
            raise DataError(f"{folder}: its vision config has {key} {found}, not {expected}")


def load_qwen(
    name: str,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    vision: Mapping[str, Any] | None = None,
    **loading: Any,
) -> torch.nn.Module:
    """The model of a folder, see `load_weights`.

    Args:
        name: of the model as transformers' classes have it, e.g. ``Qwen2VL``.
        vision: keys of its vision config that must have these values, with `FIXED`.
        blocks: of the language model, the first; None: all.

    Raises:
        DataError: the weights or the vision config are other ones.
    """
    import transformers

    check_vision(folder, vision)
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    model = load_weights(model_class, folder, dtype, **loading)
    model.model.visual.patch_embed.proj.__class__ = _patch_product()
    for block in model.model.visual.blocks:
        block.attn.__class__ = _in_one_call(type(block.attn))
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


@cache
def _in_one_call(attention_class: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A vision attention that goes over all segments at once where it is told their longest.

    transformers' own reads the bounds on the host, block by block, which waits for the device and
    cannot be compiled.
    """
    import sys

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    rotate = sys.modules[attention_class.__module__].apply_rotary_pos_emb_vision

    class InOneCall(attention_class):
        def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs):
            longest = kwargs.get("longest_segment")
            if longest is None:
                return super().forward(
                    hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs
                )
            parts = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
            query, key = rotate(*parts[:2], *position_embeddings)
            attended, _ = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](
                self,
                *(part.transpose(0, 1)[None] for part in (query, key, parts[2])),
                attention_mask=None,
                scaling=self.scaling,
                is_causal=False,
                segments=kwargs.get("segments", cu_seqlens),
                longest_segment=longest,
            )
            return self.proj(attended.flatten(2)[0])

    return InOneCall


def module_of(parameter_name: str) -> str:
    """``llm``, ``projector`` or ``vision``: the part of the model that a parameter belongs to."""
    parts = parameter_name.split(".")
    if "visual" not in parts:
        return "llm"
    return "projector" if parts[parts.index("visual") + 1] == "merger" else "vision"


def lora_targets(model: torch.nn.Module, module: str) -> list[str]:
    """Full names of the linear layers of a module, without ``lm_head`` (it may be tied)."""
    return linear_layers(model, module, module_of)


def build_qwen(
    name: str,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    folder: Path,
    seed: int,
    vision: Mapping[str, Any] | None = None,
) -> None:
    """Write a randomly initialised model that stock transformers loads, with our chat template.

    Args:
        name: of the model as transformers' classes have it, e.g. ``Qwen2VL``.
        config: ``text_config``, ``vision_config`` and ``image_processor`` as transformers has
            them; optionally ``tie_word_embeddings`` (default true) and ``initializer_range``, for
            both where they do not say their own.
        tokenizer: with all `SPECIAL_TOKENS`; its ids are looked up by name.
        vision: keys of the vision config that have these values, with `FIXED`.

    Raises:
        ConfigError: transformers refuses the config, or its vision is not the family's.
    """
    import transformers

    vision = {**FIXED, **(vision or {})}
    for key, expected in vision.items():
        if config["vision_config"].get(key, expected) != expected:
            raise ConfigError(f"model config: vision_config.{key} must be {expected}")
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    image, video = (ids[placeholder] for placeholder in PLACEHOLDERS)
    ends = {"eos_token_id": ids[END_OF_TURN], "pad_token_id": ids[END_OF_TEXT]}
    spread = {key: config[key] for key in ("initializer_range",) if key in config}
    model = build(
        lambda: getattr(transformers, f"{name}ForConditionalGeneration")(
            getattr(transformers, f"{name}Config")(
                text_config={
                    **spread,
                    **config["text_config"],
                    **ends,
                    "bos_token_id": ids[END_OF_TEXT],
                    "vocab_size": tokenizer.get_vocab_size(),
                },
                vision_config={**spread, **config["vision_config"], **vision},
                image_token_id=image,
                video_token_id=video,
                vision_start_token_id=ids["<|vision_start|>"],
                vision_end_token_id=ids["<|vision_end|>"],
                tie_word_embeddings=config.get("tie_word_embeddings", True),
                dtype="float32",
            )
        ),
        seed,
        module_of,
    )
    model.generation_config.update(**ends, bos_token_id=ids[END_OF_TEXT], do_sample=False)
    model.save_pretrained(folder)
    _processor(name, tokenizer, config["image_processor"]).save_pretrained(folder)


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


def _processor(name: str, tokenizer: Tokenizer, image_options: Mapping[str, Any]) -> Any:
    """The HF processor of a tokenizer: its text side reproduces `render`, its image side ours."""
    import transformers

    model = json.loads(tokenizer.to_str())["model"]
    text = transformers.Qwen2Tokenizer(
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
    return getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**image_options),
        tokenizer=text,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=chat_template(),
    )
