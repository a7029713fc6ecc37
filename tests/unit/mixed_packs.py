"""Tiny models of every family at std 0.15, and packs of images, videos and text for them."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tiny_models
import torch

import shardline.attention  # noqa: F401  (registers the attention that the families name)
from shardline import registry
from shardline.labels import IGNORED
from shardline.placeholders import media_types, placeholder_ids
from shardline.training.packs import Row, join

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "llava")
STD = 0.15
OPTIONS = {
    "min_visual_tokens": 4,
    "max_visual_tokens": 64,
    "video": {"min_visual_tokens": 4, "max_visual_tokens": 16},
    "image_side": 56,
}
TEXT_CONFIG = {**tiny_models.CONFIG["text_config"], "initializer_range": STD}
PLAIN_TEXT = {name: value for name, value in TEXT_CONFIG.items() if name != "rope_parameters"}
VISION = {
    "qwen2_vl": {**tiny_models.CONFIG["vision_config"], "initializer_range": STD},
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
        "initializer_range": STD,
    },
    "llava": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": OPTIONS["image_side"],
        "projection_dim": 32,
        "initializer_range": STD,
    },
}
# Of each sample: its media with their sizes (and frames), and the letters of its answer.
SAMPLES = (
    ([("image", 112, 84)], 9),
    ([("image", 56, 140), ("image", 140, 56)], 4),
    ([], 30),
    ([("video", 84, 56, 4)], 7),
    ([("image", 84, 84)], 1),
    ([], 3),
)


def build(name: str, folder: Path) -> tuple[ModuleType, Path]:
    """A family, and the folder of a tiny model of it."""
    family = registry.load("families", name)
    config = {
        "text_config": PLAIN_TEXT if name == "llava" else TEXT_CONFIG,
        "vision_config": VISION[name],
        "image_processor": {"do_pad": True} if name == "llava" else {},
    }
    tokenizer = tiny_models.tokenizer()
    if name == "llava":
        talk = [tiny_models.conversation(text, text, images=0) for text in tiny_models.TEXT]
        tokenizer = family.train_tokenizer(talk, 500)
    family.build_model(config, tokenizer, folder, 0)
    return family, folder


def samples(family: ModuleType, folder: Path, seed: int = 0) -> list[Row]:
    """A row for each of `SAMPLES`; ``seed`` draws pixels and letters, never a length."""
    tokenizer = family.load_tokenizer(folder)
    return [
        _sample(family, tokenizer, media, letters, f"{seed}:{number}")
        for number, (media, letters) in enumerate(SAMPLES)
    ]


def _sample(family: ModuleType, tokenizer: Any, media: list[tuple], letters: int, seed: str) -> Row:
    draw = random.Random(seed)
    words = ("".join(draw.choices("bcdfghjkm", k=count)) for count in (5, letters))
    question, answer = ([{"type": "text", "text": " ".join(word)}] for word in words)
    shown = [{"type": kind} for kind, *_ in media]
    messages = [
        {"role": "user", "content": shown + question},
        {"role": "assistant", "content": answer},
    ]
    placeholders = placeholder_ids(tokenizer, family)
    stored, labels = family.encode(tokenizer, messages)
    grids, images, intervals = [], [], []
    for kind, width, height, *frames in media:
        grid = family.media_grid(width, height, frames[0] if frames else None, OPTIONS)
        wide, high = family.seen_size(grid)
        shape = ((frames[0] if frames else 1) * high, wide, 3)
        pixels = np.frombuffer(draw.randbytes(int(np.prod(shape))), dtype=np.uint8)
        grids.append(grid)
        images.append(torch.from_numpy(pixels.reshape(shape).copy()))
        intervals.append(0.75 if kind == "video" else 0.0)
    ids, labels = family.expand(stored, labels, grids, placeholders)
    labels[0] = IGNORED
    rotary = family.positions(ids, grids, placeholders, intervals)
    positions = np.concatenate([np.arange(len(ids))[None], rotary])
    return join(
        [
            {
                "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
                "labels": torch.from_numpy(labels.astype(np.int64))[None],
                "mm_token_type_ids": torch.from_numpy(media_types(ids, placeholders))[None],
                "position_ids": torch.from_numpy(positions)[:, None],
                "cu_seq_lens_q": torch.tensor([0, len(ids)], dtype=torch.int32),
                "images": images,
                "image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
                "media_types": [
                    kind for kind in media_types(stored, placeholders).tolist() if kind
                ],
                "intervals": intervals,
            }
        ]
    )
