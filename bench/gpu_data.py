"""What the rows of `gpu` train on: a model of random weights, drawn screens, shards and a plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conversations import conversations, write_filtered, write_model
from plan import Kind
from tokenise import run_tokenising

from shardline import plan as planning
from shardline.families import qwen2_vl as family
from shardline.files import canonical_json, read_json, sha256_file, write_json
from shardline.samples import Sample

LIMITS = {"min_visual_tokens": 256, "max_visual_tokens": 1344}
SIZES = {
    "2b": {
        "text_config": {
            **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
            **{"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936},
            **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6},
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
            },
        },
        "vision_config": {
            **{"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
            "mlp_ratio": 4,
        },
    },
    "tiny": {
        "text_config": {
            **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048},
            **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6},
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
            },
        },
        "vision_config": {
            **{"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
        },
    },
}
"""Qwen2-VL-2B as it is published, and a model of its kind for machines without a GPU."""
SCREENS = Kind(
    1.0,
    {
        **{(1344, 784): 1, (1176, 728): 1, (980, 644): 1},  # 1344, 1092 and 805 visual tokens
        **{(448, 896): 1, (784, 560): 1, (588, 392): 1},  # 512, 560 and 294
    },
    (300, 400),
)
PROMPT = (
    "Based on the screenshot of the page, I give a text description and you give its corresponding "
    "location. The coordinate represents a clickable location [x, y] for an element, which is a "
    "relative coordinate on the screenshot, scaled from 0 to 1. The element is: {}"
)
WORDS = ("save", "open", "close", "search", "the mail from Friday", "the settings of the account")


def write_samples(folder: Path, count: int) -> list[tuple[Sample, bytes]]:
    """Draw screens with one question each; returns what `read_samples` reads again."""
    made = []
    rng = np.random.default_rng(0)
    for sample, data in conversations([SCREENS], count):
        question = PROMPT.format(rng.choice(WORDS))
        answer = "[{:.2f}, {:.2f}]".format(*rng.random(2))
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        made.append((dataclasses.replace(sample, messages=messages), data))
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for sample, data in made:
        (pictures / sample.media[0].path).write_bytes(data)
    lines = [canonical_json(sample.to_json()) for sample, _ in made]
    (folder / "samples.jsonl").write_text("\n".join(lines))
    return made


def read_samples(folder: Path) -> dict[str, tuple[Sample, bytes]]:
    """The drawn samples with their pictures' files, by id."""
    samples = [
        Sample.from_json(json.loads(line))
        for line in (folder / "samples.jsonl").read_text().splitlines()
    ]
    return {s.id: (s, (folder / "pictures" / s.media[0].path).read_bytes()) for s in samples}


def write_base(folder: Path, made: list[tuple[Sample, bytes]], size: str, device: str) -> None:
    """The model's folder and its lock.

    The tokenizer is a small one of the samples' own words: most rows of the embedding stay unused,
    which changes no time.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    write_model(folder, made)
    config = Qwen2VLConfig.from_pretrained(folder).to_dict()
    for part in ("text_config", "vision_config"):
        config[part] = {**config[part], **SIZES[size][part]}
    config["text_config"].pop("layer_types", None)
    config |= {"tie_word_embeddings": True, "dtype": "bfloat16"}
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
    model.to(torch.bfloat16).save_pretrained(folder)
    file = folder / "config.json"
    write_json(folder.with_suffix(".lock.json"), {"name": size, "sha256": sha256_file(file)})


def write_tokens(results: Path, made: list[tuple[Sample, bytes]], model: Path) -> Path:
    """Convert, shard and tokenise the samples; returns the tokens' manifest."""
    tokens = {**LIMITS, "loss": "answers"}
    return run_tokenising(write_filtered(results, made), model, results, tokens)


def write_plan(results: Path, tokens: Path, steps: int, settings: Mapping[str, Any]) -> Path:
    """A plan of one full pack a step; returns its summary."""
    plan = results / f"plans/bench/{steps}.json"
    planning.write_plan(
        [tokens],
        {
            **{"recipe": "bench", "stage": str(steps), "method": "sft", "family": "qwen2_vl"},
            **{"seed": 0, "mixture": [{"dataset": "mix", "percent": 100}]},
            **{"steps": steps, "epochs": None, "max_length": settings["max_length"]},
            **{"global_batch": {"tokens": settings["max_length"]}, "fixed_shape": True},
        },
        family,
        plan=plan,
        parquet=plan.with_suffix(".parquet"),
        rejects=plan.with_suffix(".rejects.jsonl"),
    )
    return plan


def stored_bytes(manifest: Path) -> int:
    """Bytes of the shards that a manifest lists."""
    return sum(shard["bytes"] for shard in read_json(manifest)["shards"])
