"""Answers of a model to questions about images: batched greedy generation."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig

import shardline.attention  # noqa: F401 (registers the attention that families ask for)
from shardline.benchmark import items
from shardline.embedded import read_medium
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, sha256_bytes
from shardline.images import BadImage
from shardline.pixels import decode_pixels
from shardline.placeholders import placeholder_ids
from shardline.samples import Sample

SPEAK_EVERY = 5.0  # seconds between two lines of the log
CACHED_IMAGES = 64


class Item(NamedTuple):
    """One question: a sample's box, asked with the image of ``pictured`` (usually the same)."""

    name: str
    sample: Sample
    index: int
    pictured: Sample


class Prompt(NamedTuple):
    """A question as the model reads it."""

    input_ids: np.ndarray
    """int64 [L], placeholders expanded."""
    images: list[torch.Tensor]
    """uint8 [height, width, 3], resized."""
    grids: list[tuple[int, int, int]]


class Answer(NamedTuple):
    """The generated text, without special tokens, and how many tokens it took with its end."""

    text: str
    new_tokens: int
    seen: Sequence[tuple[int, int]] = ()
    """Width and height in pixels of each picture of the question, as the model saw it."""


def choose_dtype(precision: str | None, model: Path) -> torch.dtype:
    """The precision to answer in: the one asked for, else that of the saved weights.

    Args:
        precision: ``bf16``, ``fp32`` or None.
        model: the model's folder.
    """
    config = read_json(model / "config.json")
    saved = config.get("dtype") or config.get("torch_dtype")
    half = precision == "bf16" or (precision is None and saved == "bfloat16")
    return torch.bfloat16 if half else torch.float32


def benchmark_items(
    samples: Mapping[str, Sample], limit: int | None, shuffle_images: int | None
) -> list[Item]:
    """The items to answer, in the benchmark's order.

    Args:
        limit: answer this many, chosen by the hash of their names; None: all.
        shuffle_images: seed of a permutation of the images, after which every question comes with
            another one: the control that shows what is answered without looking. None: its own.

    Raises:
        ConfigError: images cannot be shuffled where there is only one.
    """
    others = {} if shuffle_images is None else _shuffled(samples, shuffle_images)
    chosen = [
        Item(name, sample, index, others.get(sample.id, sample))
        for name, sample, index in items(samples)
    ]
    if limit is not None and limit < len(chosen):
        kept = set(sorted((sha256_bytes(item.name.encode()), item.name) for item in chosen)[:limit])
        chosen = [item for item in chosen if (sha256_bytes(item.name.encode()), item.name) in kept]
    return chosen


def _shuffled(samples: Mapping[str, Sample], seed: int) -> dict[str, Sample]:
    """For each sample one with another image; samples of one image get the same one."""
    shown: dict[str, Sample] = {}
    for sample in samples.values():
        shown.setdefault(_picture_of(sample), sample)
    if len(shown) < 2:
        raise ConfigError("--shuffle-images: the benchmark has one image, so no other one")
    order = sorted(shown)
    random.Random(seed).shuffle(order)
    follower = dict(zip(order, order[1:] + order[:1], strict=True))
    return {name: shown[follower[_picture_of(sample)]] for name, sample in samples.items()}


def _picture_of(sample: Sample) -> str:
    return " ".join(medium.sha256 for medium in sample.media)


class Prompter:
    """Turns items into prompts, exactly as training samples are made."""

    def __init__(
        self,
        family: ModuleType,
        task: ModuleType,
        tokenizer: Tokenizer,
        options: Mapping[str, Any],
        raw: Path,
    ) -> None:
        """Args: ``options`` of the tokens, as in training; ``raw``: folder of the images."""
        self.family, self.task, self.tokenizer = family, task, tokenizer
        self.options, self.raw = options, raw
        self.placeholders = placeholder_ids(tokenizer, family)
        self._picture = lru_cache(CACHED_IMAGES)(self._open)

    def __call__(self, item: Item) -> Prompt:
        """The prompt of an item.

        Raises:
            DataError: an image is missing or does not decode.
        """
        pictures = [self._picture(medium.path) for medium in item.pictured.media]
        seen = [self.family.seen_size(grid) for _, grid in pictures]
        messages = self.task.question(item.sample, item.index, self.options, seen)
        return self.prompt(messages, pictures)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        pictures: Sequence[tuple[torch.Tensor, tuple[int, int, int]]],
    ) -> Prompt:
        """The prompt of a conversation and its resized pictures with their grids."""
        input_ids, labels = self.family.encode(self.tokenizer, messages, generation_prompt=True)
        grids = [grid for _, grid in pictures]
        expanded, _ = self.family.expand(input_ids, labels, grids, self.placeholders)
        return Prompt(expanded.astype(np.int64), [image for image, _ in pictures], grids)

    def resize(self, pixels: np.ndarray) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Pixels uint8 [height, width, 3] as the model sees them, and their grid."""
        height, width, _ = pixels.shape
        grid = self.family.media_grid(width, height, None, self.options)
        return torch.from_numpy(self.family.resize([pixels], grid, self.options)), grid

    def _open(self, path: str) -> tuple[torch.Tensor, tuple[int, int, int]]:
        file = self.raw / path
        try:
            return self.resize(decode_pixels(read_medium(file)))
        except FileNotFoundError:
            raise DataError(f"{file}: missing since the benchmark was converted") from None
        except BadImage as problem:
            raise DataError(f"{file}: {problem}") from None


class Answerer:
    """A model that answers batches of prompts, greedily."""

    def __init__(
        self,
        model: torch.nn.Module,
        family: ModuleType,
        tokenizer: Tokenizer,
        max_new_tokens: int,
    ) -> None:
        """Args: ``model``: from the family's ``load_model``; its KV cache is switched on here."""
        self.model, self.family, self.tokenizer = model.eval(), family, tokenizer
        for config in (model.config, model.config.get_text_config()):
            config.use_cache = True
        declared = model.generation_config
        ends = declared.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends)
        self.pad = declared.pad_token_id
        # Replaced whole: what a published model declares (sampling, penalties) would be merged in.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad,
            use_cache=True,
        )

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer a batch: prompts are padded on the left to the longest."""
        device = self.model.device
        width = max(len(prompt.input_ids) for prompt in prompts)
        tokens = torch.full((len(prompts), width), self.pad)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt.input_ids) :] = torch.from_numpy(prompt.input_ids)
            mask[row, width - len(prompt.input_ids) :] = 1
        inputs: dict[str, torch.Tensor] = {}
        if images := [image for prompt in prompts for image in prompt.images]:
            grids = [grid for prompt in prompts for grid in prompt.grids]
            inputs = self.family.vision_inputs(images, grids, device, torch.float32)
            types = (tokens == placeholder_ids(self.tokenizer, self.family)[0]).long().to(device)
            inputs |= self.family.position_inputs(types, [1] * len(images), [0.0] * len(images))
        with torch.no_grad():
            output = self.model.generate(
                input_ids=tokens.to(device), attention_mask=mask.to(device), **inputs
            )
        return [
            self._answer(row)._replace(seen=[self.family.seen_size(grid) for grid in prompt.grids])
            for row, prompt in zip(output[:, width:].tolist(), prompts, strict=True)
        ]

    def _answer(self, tokens: list[int]) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        kept = tokens if end is None else tokens[:end]
        count = len(tokens) if end is None else end + 1
        return Answer(self.tokenizer.decode(kept, skip_special_tokens=True), count)


def answer_items(
    wanted: Sequence[Item],
    prompter: Prompter,
    answerer: Answerer,
    batch: int,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[Item, Answer]]:
    """Answer items in batches of similar length; they come back in the order given."""
    started = spoken = time.monotonic()
    lengths = [len(prompter(item).input_ids) for item in wanted]
    order = sorted(range(len(wanted)), key=lambda place: (-lengths[place], wanted[place].name))
    answers: dict[int, Answer] = {}
    for first in range(0, len(order), batch):
        places = order[first : first + batch]
        found = answerer([prompter(wanted[place]) for place in places])
        answers.update(zip(places, found, strict=True))
        now = time.monotonic()
        if now - spoken >= SPEAK_EVERY or len(answers) == len(wanted):
            spoken = now
            rate = len(answers) / (now - started)
            left = round((len(wanted) - len(answers)) / rate)
            say(
                f"answered {len(answers)}/{len(wanted)}  {rate:.1f} a second  "
                f"left {left // 60}:{left % 60:02}"
            )
    for place, item in enumerate(wanted):
        yield item, answers[place]
