"""LLaVA-style models so small that every step of theirs can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import tiny_models
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from shardline.attention import NAME
from shardline.families import llava

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 112,
    "projection_dim": 32,
    "initializer_range": 0.15,
}


def build(folder: Path, text: dict | None = None, **vision: int) -> Path:
    """Write a tiny model with a tokenizer; ``vision`` and ``text`` update its configs."""
    talk = [tiny_models.conversation(line, line) for line in tiny_models.TEXT]
    config = {
        "text_config": {**TEXT, **(text or {})},
        "vision_config": {**VISION, **vision},
        "image_processor": {"do_pad": True},
    }
    llava.build_model(config, llava.train_tokenizer(talk, 500), folder, 0)
    return folder


def tower(layers: int, side: int, width: int = 8, seed: int = 0) -> torch.nn.Module:
    """A model in fp64 whose tower sees ``side`` x ``side`` patches, and hardly a text model."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        text_config={**TEXT, "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 8,
                     "num_key_value_heads": 4, "model_type": "llama"},
        vision_config={**VISION, "hidden_size": width, "intermediate_size": 2 * width,
                       "num_hidden_layers": layers, "image_size": 14 * side, "patch_size": 14,
                       "model_type": "clip_vision_model"},
        image_token_index=1,
        attn_implementation=NAME,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).double().eval()
    for parameter in model.model.vision_tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
