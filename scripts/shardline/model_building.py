"""Building a base model from a config file: tokenizer of the recipe's own text, random weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shardline.errors import ConfigError, DataError, SampleError
from shardline.files import naming_full_disk, read_json, read_jsonl, short_hash
from shardline.locks import write_lock
from shardline.pictures import media_grids
from shardline.samples import Sample

CONFIG_KEYS = {"text_config", "vision_config", "tokenizer", "image_processor", "seed"}
OPTIONAL_KEYS = {"tie_word_embeddings", "initializer_range"}


def build_model(
    name: str,
    options: Mapping[str, Any],
    converted: Sequence[Path],
    *,
    family: ModuleType,
    task: ModuleType,
    raw: Path,
    lock: Path,
    files: Path,
) -> None:
    """Write a model folder, its file list and, last, its lock.

    Args:
        options: ``config`` (the content of the model's config file) and ``tokens``.
        converted: manifests of the datasets whose rendered text trains the tokenizer.

    Raises:
        ConfigError: a key of the model's config is missing or unknown, or a value is refused.
        DataError: the datasets hold no text.
    """
    config = options["config"]
    if unknown := sorted(set(config) - CONFIG_KEYS - OPTIONAL_KEYS):
        raise ConfigError(f"model {name}: unknown key {unknown[0]!r} in its config file")
    if missing := sorted(CONFIG_KEYS - set(config)):
        raise ConfigError(f"model {name}: its config file lacks {', '.join(missing)}")
    conversations = list(_conversations(converted, family, task, options["tokens"]))
    if not conversations:
        names = ", ".join(manifest.parent.name for manifest in converted)
        raise DataError(f"model {name}: {names}: no text to train its tokenizer on")
    tokenizer = family.train_tokenizer(conversations, config["tokenizer"]["vocab_size"])
    lock.unlink(missing_ok=True)
    building = raw.with_name(f".{raw.name}.building")
    for folder in (building, raw):
        shutil.rmtree(folder, ignore_errors=True)
    building.mkdir(parents=True)
    with naming_full_disk(building):
        family.build_model(config, tokenizer, building, config["seed"])
    building.rename(raw)
    write_lock(
        raw,
        lock,
        files,
        name=name,
        kind="model",
        source="init",
        revision=short_hash(config),
    )


def _conversations(
    converted: Sequence[Path], family: ModuleType, task: ModuleType, tokens: Mapping[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    for manifest in converted:
        for shard in read_json(manifest)["shards"]:
            for row in read_jsonl(manifest.parent / shard["name"]):
                sample = Sample.from_json(row)
                try:
                    grids = media_grids(sample, family, tokens)
                    seen = [family.seen_size(grid) for grid in grids]
                    messages = task.conversation(sample, tokens, seen)
                    family.render(messages)
                except SampleError:
                    continue  # tokenising lists it among the rejects
                if messages:
                    yield messages
