"""What a stage will take, before anything is tokenised: samples, tokens, packs and steps.

Only converted samples are read: their texts and the sizes of their images. Filters are not run, so
that a filtered stage has at most what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from shardline.arrangement import arrange
from shardline.errors import DataError, SampleError
from shardline.files import read_json, read_jsonl
from shardline.mixture import apportion_mixture
from shardline.pictures import media_grids
from shardline.plan_pool import Pool, given_packs, keep_part, mixture_of
from shardline.samples import Sample
from shardline.token_checks import group_of, pack_of
from shardline.variants import variants_of

CHARACTERS_A_TOKEN = 3.5  # English UI text with a large vocabulary; only without a tokenizer
SPECIAL_TOKENS_A_TURN = 4
MEDIA = ("image", "video")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Of one dataset's usable samples: ids, tokens with media expanded, their tokens and patches.

    ``groups`` and ``packs``: what a split keeps together, and the packs of the source.
    """

    ids: list[str]
    tokens: np.ndarray
    visual: np.ndarray
    patches: np.ndarray
    groups: list[str]
    packs: list[str]
    unusable: int


def dataset_lengths(
    converted: Path,
    *,
    family: ModuleType,
    task: ModuleType,
    tokenizer: Tokenizer | None,
    tokens: Mapping[str, Any],
) -> Lengths:
    """The length of every sample of a converted dataset.

    Args:
        converted: its manifest.
        tokenizer: of the base model; without one, text is counted by its characters.
        tokens: the token options of the stage.
    """
    ids, lengths, visual, patches, groups, packs, unusable = [], [], [], [], [], [], 0
    for shard in read_json(converted)["shards"]:
        for row in read_jsonl(converted.parent / shard["name"]):
            for sample, _ in variants_of(Sample.from_json(row), tokens):
                try:
                    grids = media_grids(sample, family, tokens)
                    seen = [family.seen_size(grid) for grid in grids]
                    messages = task.conversation(sample, tokens, seen)
                    text = _text_tokens(messages, family, tokenizer)
                except SampleError:
                    unusable += 1
                    continue
                if not messages:
                    unusable += 1
                    continue
                media = sum(map(family.visual_tokens, grids))
                ids.append(sample.id)
                lengths.append(text - len(sample.media) + media)
                visual.append(media)
                patches.append(sum(time * height * width for time, height, width in grids))
                groups.append(group_of(sample))
                packs.append(pack_of(sample))
    return Lengths(
        ids=ids,
        tokens=np.array(lengths, dtype=np.int64),
        visual=np.array(visual, dtype=np.int64),
        patches=np.array(patches, dtype=np.int64),
        groups=groups,
        packs=packs,
        unusable=unusable,
    )


def _text_tokens(
    messages: Sequence[Mapping[str, Any]], family: ModuleType, tokenizer: Tokenizer | None
) -> int:
    if tokenizer is not None:
        return len(family.encode(tokenizer, messages)[0])
    texts = [part["text"] for message in messages for part in message["content"] if "text" in part]
    media = sum(part["type"] in MEDIA for message in messages for part in message["content"])
    characters = sum(map(len, texts))
    return round(
        characters / CHARACTERS_A_TOKEN + SPECIAL_TOKENS_A_TURN * len(messages) + 3 * media
    )


def estimate_stage(
    converted: Mapping[str, Path],
    options: Mapping[str, Any],
    *,
    family: ModuleType,
    task: ModuleType,
    tokens: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Draw and pack a stage as its plan will be, from the lengths of its samples.

    Args:
        converted: manifest of each dataset of the mixture, by name.
        options: of `shardline.plan.write_plan`.
        tokens: the token options of the stage.
        tokenizer: of the base model, once it is there; makes the figures exact but for filters.

    Returns:
        ``samples`` drawn, ``distinct`` and ``epochs``, ``tokens``, ``visual_tokens``, ``patches``,
        ``packs``,
        ``max_packs_per_step``, ``steps``, ``fill``, ``too_long`` and ``unusable`` samples, and
        ``exact_text``: whether a tokenizer counted the text.

    Raises:
        DataError: no sample is left.
    """
    names = [entry["dataset"] for entry in options["mixture"]]
    found = [
        dataset_lengths(
            converted[name], family=family, task=task, tokenizer=tokenizer, tokens=tokens
        )
        for name in names
    ]
    pools = [
        _pool(number, name, lengths, options)
        for number, (name, lengths) in enumerate(zip(names, found, strict=True))
    ]
    if not any(pool.ids for pool in pools):
        raise DataError(f"{', '.join(names)}: no sample fits {options['max_length']} tokens")
    taken = apportion_mixture([len(pool.units) for pool in pools], options["mixture"])
    mixture, given, _ = mixture_of(pools, taken, options)
    order, _, steps = arrange(mixture["length"], mixture["patches"], options, given)
    tokens = int(mixture["length"][order].sum())
    size = options.get("epoch_draws") or len(mixture["length"])
    return {
        "samples": len(order),
        "distinct": len(np.unique(mixture["place"][order])),
        "epochs": round(len(order) / size, 6),
        "tokens": tokens,
        "visual_tokens": int(mixture["visual"][order].sum()),
        "patches": int(mixture["patches"][order].sum()),
        "packs": len(steps),
        "max_packs_per_step": int(np.bincount(steps).max()),
        "steps": int(steps[-1]) + 1,
        "fill": round(tokens / (len(steps) * options["max_length"]), 6),
        "too_long": sum(len(pool.rejects) for pool in pools),
        "unusable": sum(part.unusable for part in found),
        "exact_text": tokenizer is not None,
    }


def _pool(number: int, dataset: str, lengths: Lengths, options: Mapping[str, Any]) -> Pool:
    """A dataset's samples as a plan would have them, if all of them got through the filters.

    A sample whose answer would be cut is taken to fill a pack.
    """
    usable = lengths.patches <= (options.get("max_patches") or np.inf)
    if options.get("too_long") == "truncate_answer":
        usable &= lengths.visual < options["max_length"]
    else:
        usable &= lengths.tokens <= options["max_length"]
    part = keep_part(lengths.groups, lengths.ids, dataset, options)
    rows = np.flatnonzero(usable & part)
    ids = [lengths.ids[row] for row in rows.tolist()]
    return Pool(
        dataset,
        ids=ids,
        columns={
            "length": np.minimum(lengths.tokens[rows], options["max_length"]),
            "patches": lengths.patches[rows],
            "visual": lengths.visual[rows],
            "place": rows + (number << 32),
        },
        packs=given_packs([lengths.packs[row] for row in rows.tolist()], ids, options),
        rejects=[{}] * int(np.count_nonzero(~usable)),
    )
