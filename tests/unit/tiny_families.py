"""Tiny models of every family, and rows for them without any plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tiny_models
import torch

from shardline.families import llava, qwen2_5_vl, qwen2_vl
from shardline.files import read_json
from shardline.labels import IGNORED
from shardline.placeholders import media_types, placeholder_ids
from shardline.training.packs import Row, join

FAMILIES = {"qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "llava": llava}
OPTIONS = {
    "min_visual_tokens": 4,
    "max_visual_tokens": 64,
    "video": {"min_visual_tokens": 4, "max_visual_tokens": 16},
    "fit": "pad",
}
TEXT = tiny_models.CONFIG["text_config"]
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
        "text_config": {name: TEXT[name] for name in TEXT if name != "rope_parameters"},
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
Media = Sequence[tuple]
# Of each sample: its media with their sizes (and frames), and the letters of its answer.
SAMPLES: tuple[tuple[Media, int], ...] = (
    ([("image", 112, 84)], 9),
    ([("image", 56, 140), ("image", 140, 56)], 4),
    ([], 30),
    ([("video", 84, 56, 4)], 7),
    ([("image", 84, 84)], 1),
    ([], 3),
)


def build(name: str, folder: Path, **changes: Any) -> Path:
    """Write the tiny model of a family; ``changes`` update the parts of its config."""
    config = dict(CONFIGS[name])
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    tokenizer = tiny_models.tokenizer()
    if name == "llava":
        talk = [tiny_models.conversation(text, text) for text in tiny_models.TEXT]
        tokenizer = llava.train_tokenizer(talk, 500)
    FAMILIES[name].build_model(config, tokenizer, folder, 0)
    return folder


def samples(family: ModuleType, folder: Path, seed: int = 0) -> list[Row]:
    """A row for each of `SAMPLES`; ``seed`` draws pixels and letters, never a length."""
    return [
        row(family, folder, f"{seed}:{number}", media, letters)
        for number, (media, letters) in enumerate(SAMPLES)
    ]


def row(
    family: ModuleType,
    folder: Path,
    seed: int | str,
    media: Media = (("image", 112, 56),),
    letters: int = 9,
) -> Row:
    """One sample as the loader gives it; ``letters``: of its answer."""
    tokenizer, draw = family.load_tokenizer(folder), random.Random(seed)
    side = read_json(folder / "config.json")["vision_config"].get("image_size")
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
        count = frames[0] if frames else None
        grid = family.media_grid(width, height, count, {**OPTIONS, "image_side": side})
        wide, high = family.seen_size(grid)
        shape = ((count or 1) * high, wide, 3)
        pixels = np.frombuffer(draw.randbytes(int(np.prod(shape))), dtype=np.uint8)
        grids.append(grid)
        images.append(torch.from_numpy(pixels.reshape(shape).copy()))
        intervals.append(0.75 if kind == "video" else 0.0)
    ids, labels = family.expand(stored, labels, grids, placeholders)
    labels[0] = IGNORED
    rotary = family.positions(ids, grids, placeholders, intervals)
    positions = np.concatenate([np.arange(len(ids))[None], rotary])
    alone = {
        "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
        "labels": torch.from_numpy(labels.astype(np.int64))[None],
        "mm_token_type_ids": torch.from_numpy(media_types(ids, placeholders))[None],
        "position_ids": torch.from_numpy(positions)[:, None],
        "cu_seq_lens_q": torch.tensor([0, len(ids)], dtype=torch.int32),
        "images": images,
        "image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
        "media_types": [kind for kind in media_types(stored, placeholders).tolist() if kind],
        "intervals": intervals,
    }
    return join([alone])
