"""Image shards to token shards: what the model will read, ready but for padding and positions.

A sample becomes token ids with one placeholder a medium, labels, the grid of each medium, and its
picture at the size of its grid (the sampled frames of a video one below the other). Nothing of it
depends on mixture, sequence length or hardware.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from shardline.errors import DataError, SampleError
from shardline.files import canonical_json, file_entry, sha256_bytes, sha256_file, write_jsonl
from shardline.labels import count_supervised
from shardline.pictures import Pictures, decode_medium
from shardline.placeholders import media_types, placeholder_ids
from shardline.png import encode_png
from shardline.samples import Sample
from shardline.shards import read_shard, write_shard
from shardline.token_checks import check_arrays, check_grid, planning_columns
from shardline.token_index import IMAGE_SUFFIX, write_index
from shardline.variants import cut, variants_of

STAGE = "tokenize"
PACKAGES = (*("av", "isal", "numpy", "pillow", "pyarrow", "tokenizers", "torch", "torchvision"),)


class Tokenised(NamedTuple):
    """One sample as tokens: int32 [L] arrays with one placeholder a medium, and its media."""

    input_ids: np.ndarray
    labels: np.ndarray
    grids: list[tuple[int, int, int]]
    intervals: list[float]
    """Of each medium: seconds from frame to frame, 0 for an image."""
    images: list[np.ndarray]
    """Pixels uint8 [frames * height, width, 3]."""


def tokenise_sample(
    sample: Sample,
    media: Sequence[Pictures],
    *,
    family: ModuleType,
    task: ModuleType,
    tokenizer: Tokenizer,
    options: Mapping[str, Any],
) -> Tokenised:
    """Render, encode and resize one sample.

    Args:
        media: of the sample, in order.
        options: of the tokens: ``loss``, the family's and the task's.

    Raises:
        SampleError: ``no_supervised``: the loss would see no token; ``placeholders``: they are
            not as many as the media; or what the task, the family or `token_checks` refuses.
    """
    grids = [
        family.media_grid(*part.size, len(part.frames) if part.interval else None, options)
        for part in media
    ]
    for grid in grids:
        check_grid(grid, family.MERGE)
    messages = task.conversation(sample, options, [family.seen_size(grid) for grid in grids])
    input_ids, labels = family.encode(tokenizer, messages, loss=options.get("loss", "answers"))
    placeholder_numbers = placeholder_ids(tokenizer, family)
    check_arrays(input_ids, labels, placeholder_numbers, tokenizer)
    if not count_supervised(labels):
        raise SampleError("no_supervised", "no token of it would be learned")
    placeholders = count_placeholders(input_ids, placeholder_numbers)
    if placeholders != len(media):
        raise SampleError("placeholders", f"{placeholders} in the text for {len(media)} media")
    return Tokenised(
        input_ids,
        labels,
        grids,
        [part.interval for part in media],
        [
            family.resize(part.frames, grid, options)
            for part, grid in zip(media, grids, strict=True)
        ],
    )


def count_placeholders(input_ids: np.ndarray, placeholders: Sequence[int]) -> int:
    """How many media the tokens ask for."""
    return int(np.count_nonzero(media_types(input_ids, placeholders)))


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
    family.check_model(model, options)
    placeholders = placeholder_ids(tokenizer, family)
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []

    def tokenised() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        for key, members in read_shard(source):
            original = Sample.from_json(json.loads(json.loads(members["json"])["sample"]))
            media = _media(source, key, original, members, options)
            for number, (sample, window) in enumerate(variants_of(original, options)):
                shown = [Pictures([cut(media[0].frames[0], window)])] if window else media
                try:
                    tokens = tokenise_sample(
                        sample,
                        shown,
                        family=family,
                        task=task,
                        tokenizer=tokenizer,
                        options=options,
                    )
                except SampleError as error:
                    rejected.append(_reject(sample, error))
                    continue
                name = f"{key}-{number}" if number else key
                rows.append({"key": name, **_index_row(sample, tokens, family, placeholders)})
                yield name, shard_members(sample, tokens)

    members = write_shard(output, tokenised())
    write_jsonl(rejects, rejected)
    facts = {
        "shard": file_entry(output),
        "in": len(rows) + len(rejected),
        "variants": options.get("variants", 1),
        "kept": len(rows),
        "rejected": len(rejected),
        "family": family_name,
        "placeholder_ids": placeholders,
        "tokenizer_sha256": sha256_file(model / "tokenizer.json"),
        "template_sha256": sha256_bytes(family.chat_template().encode()),
        "versions": {package: version(package) for package in PACKAGES},
    }
    write_index(index, rows, members, facts)


def _media(
    source: Path,
    key: str,
    sample: Sample,
    members: Mapping[str, bytes],
    options: Mapping[str, Any],
) -> list[Pictures]:
    """The decoded media of a sample."""
    files = {suffix.partition(".")[0]: data for suffix, data in members.items()}
    media = []
    for number, medium in enumerate(sample.media):
        if (data := files.get(str(number))) is None:
            raise DataError(f"{source}: sample {key} ({sample.id}) lacks {medium.kind} {number}")
        try:
            media.append(decode_medium(sample, number, data, options))
        except DataError as problem:
            raise DataError(f"{source}: sample {key}: {problem}") from None
    return media


def shard_members(sample: Sample, tokens: Tokenised) -> list[tuple[str, bytes]]:
    head = {
        "id": sample.id,
        "dataset": sample.dataset,
        "grids": canonical_json(tokens.grids),
        "intervals": canonical_json(tokens.intervals),
    }
    return [
        ("json", canonical_json(head).encode()),
        *(
            (f"{number}.{IMAGE_SUFFIX}", encode_png(image))
            for number, image in enumerate(tokens.images)
        ),
        ("input_ids.npy", _npy(tokens.input_ids)),
        ("labels.npy", _npy(tokens.labels)),
    ]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _index_row(
    sample: Sample, tokens: Tokenised, family: ModuleType, placeholders: Sequence[int]
) -> dict[str, Any]:
    expanded, labels = family.expand(tokens.input_ids, tokens.labels, tokens.grids, placeholders)
    return {
        "id": sample.id,
        "dataset": sample.dataset,
        "length": len(expanded),
        "text_length": len(tokens.input_ids),
        "placeholders": count_placeholders(tokens.input_ids, placeholders),
        "patches": sum(t * h * w for t, h, w in tokens.grids),
        "supervised": count_supervised(tokens.labels),
        "grids": [list(grid) for grid in tokens.grids],
        "intervals": tokens.intervals,
        **planning_columns(sample, expanded, labels, placeholders),
    }


def _reject(sample: Sample, error: SampleError) -> dict[str, Any]:
    return {
        "dataset": sample.dataset,
        "row": sample.id.removeprefix(f"{sample.dataset}:"),
        "stage": STAGE,
        "reason": error.reason,
        "detail": str(error),
    }
