"""Tiny models of every family, and rows for them without any plan."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import tiny_models
import torch

from shardline.families import llava, qwen2_5_vl, qwen2_vl
from shardline.files import read_json
from shardline.labels import IGNORED
from shardline.placeholders import media_types, placeholder_ids

FAMILIES = {"qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "llava": llava}
OPTIONS = {"min_visual_tokens": 4, "max_visual_tokens": 64, "fit": "pad"}
TEXT = {**tiny_models.CONFIG["text_config"], "initializer_range": 0.15}
LLAMA = {
    name: value
    for name, value in TEXT.items()
    if name not in ("rope_parameters", "num_key_value_heads")
}
CONFIGS = {
    "qwen2_vl": tiny_models.CONFIG,
    "qwen2_5_vl": {
        **tiny_models.CONFIG,
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.15,
        },
    },
    "llava": {
        "text_config": LLAMA,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "projection_dim": 32,
            "initializer_range": 0.15,
        },
        "image_processor": {"do_pad": True},
    },
}


def build(name: str, folder: Path, **changes: bool) -> Path:
    """Write the tiny model of a family."""
    family = FAMILIES[name]
    talk = tiny_models.conversation(*tiny_models.TEXT)
    tokenizer = family.train_tokenizer([talk], 400) if name == "llava" else tiny_models.tokenizer()
    family.build_model({**CONFIGS[name], **changes}, tokenizer, folder, 0)
    return folder


def row(family: ModuleType, folder: Path, seed: int, width: int = 112, height: int = 56) -> dict:
    """One sample with one image, as the loader gives it."""
    tokenizer = family.load_tokenizer(folder)
    placeholders = placeholder_ids(tokenizer, family)
    words = tiny_models.conversation("Save", f"[0.{seed}, 0.2]")
    input_ids, labels = family.encode(tokenizer, words)
    vision = read_json(folder / "config.json")["vision_config"]
    options = {**OPTIONS, "image_side": vision.get("image_size")}
    grid = family.media_grid(width, height, None, options)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = torch.from_numpy(family.resize([pixels], grid, options))
    tokens, targets = family.expand(input_ids, labels, [grid], placeholders)
    targets[0] = IGNORED
    rotary = family.positions(tokens, [grid], placeholders, [0.0])
    places = np.concatenate([np.arange(len(tokens))[None], rotary])
    bounds = torch.tensor([0, len(tokens)], dtype=torch.int32)
    return {
        "input_ids": torch.from_numpy(tokens.astype(np.int64))[None],
        "labels": torch.from_numpy(targets.astype(np.int64))[None],
        "mm_token_type_ids": torch.from_numpy(media_types(tokens, placeholders))[None],
        "position_ids": torch.from_numpy(places)[:, None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": len(tokens),
        "max_length_k": len(tokens),
        "images": [image],
        "image_grid_thw": torch.tensor([grid], dtype=torch.int64),
        "media_types": [1],
        "intervals": [0.0],
    }
