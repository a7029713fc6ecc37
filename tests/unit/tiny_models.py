"""A Qwen2-VL of about 0.1 M parameters with a tokenizer of its own, and packs for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shardline import lean
from shardline.families import qwen2_vl as family

lean.without("deepspeed")  # which transformers would take 6 s to import

CONFIG = {
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": [2, 3, 3],
        },
    },
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "initializer_range": 0.15,
    },
    "image_processor": {"min_pixels": 4 * 784, "max_pixels": 64 * 784},
}
TEXT = [
    "Based on the screenshot of the page, give the location of: Save, Open, Close, Search, Print",
    "[0.1, 0.2] [0.35, 0.47] [0.58, 0.69] [0.8, 0.9] [1.0, 0.0] click the button",
]


def tokenizer() -> Tokenizer:
    """A byte-level BPE of about 330 tokens that never merges digits."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(family.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    return bpe


def build(folder: Path, seed: int = 0, **changes: dict) -> Path:
    """Write the tiny model; ``changes`` update the parts of its config."""
    config = {key: {**part, **changes.get(key, {})} for key, part in CONFIG.items()}
    if "tie_word_embeddings" in changes:
        config["tie_word_embeddings"] = changes["tie_word_embeddings"]
    family.build_model(config, tokenizer(), folder, seed)
    return folder


def conversation(question: str, answer: str, images: int = 1) -> list[dict]:
    """One turn with ``images`` images in front of the question."""
    parts = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def image(grid: tuple[int, int, int], seed: int) -> np.ndarray:
    """Seeded noise, uint8 [height, width, 3], of the size of ``grid``."""
    shape = (grid[1] * family.PATCH, grid[2] * family.PATCH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
