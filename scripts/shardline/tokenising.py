"""Image shards to token shards: what the model will read, ready but for padding and positions.

A sample becomes token ids with one placeholder a medium, labels, the grid of each medium, and the
image at the size of its grid. Nothing of it depends on mixture, sequence length or hardware.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from shardline.errors import DataError, SampleError
from shardline.files import canonical_json, file_entry, sha256_bytes, sha256_file, write_jsonl
from shardline.images import BadImage, decode_rgb
from shardline.png import encode_png
from shardline.samples import Sample
from shardline.shards import read_shard, write_shard
from shardline.token_checks import check_arrays, check_grid, planning_columns
from shardline.token_index import write_index

STAGE = "tokenize"
IGNORED = -100
PACKAGES = ("numpy", "pillow", "pyarrow", "tokenizers")


class Tokenised(NamedTuple):
    """One sample as tokens: int32 [L] arrays with one placeholder a medium, and its images."""

    input_ids: np.ndarray
    labels: np.ndarray
    grids: list[tuple[int, int, int]]
    images: list[Image.Image]


def tokenise_sample(
    sample: Sample,
    images: Sequence[Image.Image],
    *,
    family: ModuleType,
    task: ModuleType,
    tokenizer: Tokenizer,
    options: Mapping[str, Any],
) -> Tokenised:
    """Render, encode and resize one sample.

    Args:
        images: its media in order, upright RGB.
        options: of the tokens: ``min_visual_tokens``, ``max_visual_tokens``, and the task's.

    Raises:
        SampleError: ``no_supervised``: the loss would see no token; ``placeholders``: they are
            not as many as the media; or what the task, the family or `token_checks` refuses.
    """
    input_ids, labels = family.encode(tokenizer, task.conversation(sample, options))
    placeholder = tokenizer.token_to_id(family.PLACEHOLDER)
    check_arrays(input_ids, labels, [placeholder], tokenizer)
    if not count_supervised(labels):
        raise SampleError("no_supervised", "no token of it would be learned")
    placeholders = count_placeholders(input_ids, placeholder)
    if placeholders != len(images):
        raise SampleError("placeholders", f"{placeholders} in the text for {len(images)} media")
    limits = options["min_visual_tokens"], options["max_visual_tokens"]
    grids = [family.image_grid(*image.size, *limits) for image in images]
    for grid in grids:
        check_grid(grid, family.MERGE)
    resized = [family.resize_image(image, grid) for image, grid in zip(images, grids, strict=True)]
    return Tokenised(input_ids, labels, grids, resized)


def count_placeholders(input_ids: np.ndarray, placeholder: int) -> int:
    """How many media the tokens ask for."""
    return int(np.count_nonzero(input_ids == placeholder))


def count_supervised(labels: np.ndarray) -> int:
    """Tokens that add to the loss: the first is predicted from nothing, so its label is not one."""
    return int(np.count_nonzero(labels[1:] != IGNORED))


def tokenise_shard(
    source: Path,
    *,
    output: Path,
    index: Path,
    rejects: Path,
    family_name: str,
    family: ModuleType,
    task: ModuleType,
    model: Path,
    options: Mapping[str, Any],
) -> None:
    """Write the token shard, index and rejects of one image shard.

    Raises:
        DataError: the shard is damaged, an image in it does not decode or has not the size that
            its sample states.
    """
    tokenizer = family.load_tokenizer(model)
    placeholder = tokenizer.token_to_id(family.PLACEHOLDER)
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []

    def tokenised() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        for key, members in read_shard(source):
            sample = Sample.from_json(json.loads(json.loads(members["json"])["sample"]))
            try:
                tokens = tokenise_sample(
                    sample,
                    _images(source, key, sample, members),
                    family=family,
                    task=task,
                    tokenizer=tokenizer,
                    options=options,
                )
            except SampleError as error:
                rejected.append(_reject(sample, error))
                continue
            rows.append({"key": key, **_index_row(sample, tokens, family, placeholder)})
            yield key, _members(sample, tokens)

    members = write_shard(output, tokenised())
    write_jsonl(rejects, rejected)
    facts = {
        "shard": file_entry(output),
        "in": len(rows) + len(rejected),
        "kept": len(rows),
        "rejected": len(rejected),
        "family": family_name,
        "placeholder_id": placeholder,
        "tokenizer_sha256": sha256_file(model / "tokenizer.json"),
        "template_sha256": sha256_bytes(family.chat_template().encode()),
        "versions": {
            **{package: version(package) for package in PACKAGES},
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
        },
    }
    write_index(index, rows, members, facts)


def _images(
    source: Path, key: str, sample: Sample, members: Mapping[str, bytes]
) -> list[Image.Image]:
    pictures = {}
    for suffix, data in members.items():
        number, _, _ = suffix.partition(".")
        if number.isdigit():
            pictures[int(number)] = data
    images = []
    for number, medium in enumerate(sample.media):
        try:
            image = decode_rgb(pictures[number])
        except KeyError:
            raise DataError(f"{source}: sample {key} ({sample.id}) lacks image {number}") from None
        except BadImage as problem:
            raise DataError(f"{source}: image {number} of {key} ({sample.id}): {problem}") from None
        if image.size != (medium.width, medium.height):
            raise DataError(
                f"{source}: image {number} of {key} ({sample.id}) is {image.width}x{image.height}, "
                f"its sample says {medium.width}x{medium.height}"
            )
        images.append(image)
    return images


def _members(sample: Sample, tokens: Tokenised) -> list[tuple[str, bytes]]:
    head = {
        "id": sample.id,
        "dataset": sample.dataset,
        "grids": canonical_json(tokens.grids),
    }
    return [
        ("json", canonical_json(head).encode()),
        *((f"{number}.png", encode_png(image)) for number, image in enumerate(tokens.images)),
        ("input_ids.npy", _npy(tokens.input_ids)),
        ("labels.npy", _npy(tokens.labels)),
    ]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _index_row(
    sample: Sample, tokens: Tokenised, family: ModuleType, placeholder: int
) -> dict[str, Any]:
    expanded, labels = family.expand(tokens.input_ids, tokens.labels, tokens.grids, placeholder)
    return {
        "id": sample.id,
        "dataset": sample.dataset,
        "length": len(expanded),
        "text_length": len(tokens.input_ids),
        "placeholders": count_placeholders(tokens.input_ids, placeholder),
        "patches": sum(t * h * w for t, h, w in tokens.grids),
        "supervised": count_supervised(tokens.labels),
        "grids": [list(grid) for grid in tokens.grids],
        **planning_columns(sample, expanded, labels, [placeholder]),
    }


def _reject(sample: Sample, error: SampleError) -> dict[str, Any]:
    return {
        "dataset": sample.dataset,
        "row": sample.id.removeprefix(f"{sample.dataset}:"),
        "stage": STAGE,
        "reason": error.reason,
        "detail": str(error),
    }
