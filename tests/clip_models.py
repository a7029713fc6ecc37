"""CLIP models of random weights, in the folders that users have."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from shardline import lean

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.3, 0.2]}


def write_open_clip(folder: Path, seed: int = 0, config: dict = CONFIG) -> Path:
    """A model in open_clip's files."""
    lean.without(*lean.HEAVY)
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": PIXELS}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_hugging_face(folder: Path, seed: int = 0) -> Path:
    """A `CLIPModel` with its tokenizer, as transformers saves them."""
    lean.without(*lean.HEAVY)
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    CLIPTokenizerFast(vocab=vocabulary, merges=[]).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "projection_dim": 32}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={
            **small, **heads, **ends, "vocab_size": len(tokens), "max_position_embeddings": 40,
        },
        vision_config={**small, **heads, "image_size": 48, "patch_size": 8},
        projection_dim=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 48, "width": 48},
        "resample": 3,
        "image_mean": PIXELS["mean"],
        "image_std": PIXELS["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder
