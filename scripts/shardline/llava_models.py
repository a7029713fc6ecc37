"""Building, reading and saving LLaVA-style models.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from shardline.chat_tokens import read_tokenizer
from shardline.errors import ConfigError, DataError
from shardline.files import read_json
from shardline.llava_vision import PATCH
from shardline.model_weights import build, linear_layers, load_weights
from shardline.vicuna_chat import (
    BEGIN,
    END,
    PAD,
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    UNKNOWN,
    chat_template,
)

if TYPE_CHECKING:
    import torch

TOWER = "vision_tower"
PROJECTOR = "multi_modal_projector"
"""Names in the model's ``model``."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; see `read_tokenizer`."""
    return read_tokenizer(folder, (BEGIN, END, *PLACEHOLDERS), "LLaVA")


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


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device | str, **loading: Any
) -> torch.nn.Module:
    """The model of a folder; see `load_weights`.

    Raises:
        DataError: the weights or the vision tower are other ones.
    """
    from transformers import LlavaForConditionalGeneration

    model = load_weights(LlavaForConditionalGeneration, folder, dtype, **loading)
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


def unread(model: torch.nn.Module, parameter_name: str) -> bool:
    """Whether a parameter is behind the tower's layer whose output is taken: nothing trains it.

    Args:
        parameter_name: of the bare model.
    """
    wanted = model.config.vision_feature_layer
    depth = model.config.vision_config.num_hidden_layers
    # Place 0 of the tower's outputs is what goes into its first layer.
    layers = [one % (depth + 1) for one in (wanted if isinstance(wanted, list) else [wanted])]
    _, found, rest = parameter_name.partition(f"{TOWER}.encoder.layers.")
    if found:
        return int(rest.partition(".")[0]) >= max(layers)
    return f"{TOWER}.post_layernorm." in parameter_name


def lora_targets(model: torch.nn.Module, module: str) -> list[str]:
    """Full names of the linear layers of a module that are read, without ``lm_head``."""
    names = linear_layers(model, module, module_of)
    return [name for name in names if not unread(model, f"{name}.weight")]


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
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if config["vision_config"].get("patch_size", PATCH) != PATCH:
        raise ConfigError(f"model config: vision_config.patch_size must be {PATCH}")
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    special = {"bos_token_id": ids[BEGIN], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    spread = {key: config[key] for key in ("initializer_range",) if key in config}
    vision = {**spread, **config["vision_config"], "patch_size": PATCH}
    model = build(
        lambda: LlavaForConditionalGeneration(
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
        ),
        seed,
        module_of,
    )
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
