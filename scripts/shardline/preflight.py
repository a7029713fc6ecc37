"""The preflight gate: finds, on the CPU, each sample that would crash or poison a training step.

What the indexes tell is checked here; what only the token arrays tell was when they were made, by
`shardline.token_checks`, and such a sample is among the rejects of tokenising.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardline.token_index import IMAGE_SUFFIX, grid_table
from shardline.truncation import CUT_BY, cut_samples

NUMBERS = ("length", "text_length", "placeholders", "patches", "supervised", "media_end")
COLUMNS = (*NUMBERS, "dataset", "answers", "grids", "members")
ARRAYS = 2  # input_ids and labels
REASONS = (
    "",
    "dataset",  # of another dataset than the index
    "placeholders",  # not one a medium, or an image is missing in the shard
    "grid",  # not whole tokens, or other than the sample's patches
    "length",  # the grids expand to another length
    "labels",  # the runs of supervised tokens are not in the sample, or not as many
    "no_supervised",
    "arrays",  # token ids or labels are missing in the shard
    "members",  # they lie outside the shard, or have no bytes
    "too_many_patches",
    "too_long",
)
POLICY = ("too_long", "too_many_patches")
"""Reasons that are a choice of the stage, and say nothing against the data."""
_REASON = {reason: code for code, reason in enumerate(REASONS)}


def preflight(
    table: pa.Table,
    shard_bytes: int,
    family: ModuleType,
    max_length: int,
    *,
    dataset: str | None = None,
    max_patches: int | None = None,
    truncate: bool = False,
    merged: np.ndarray | int = 0,
) -> np.ndarray:
    """Check every sample of a shard's index.

    Args:
        table: the `COLUMNS` of the index.
        shard_bytes: size of the tar.
        family: says into how many tokens a grid expands.
        max_length: tokens of a pack.
        dataset: whose shard it is; None for any.
        max_patches: of a pack; None for any number.
        truncate: the answer of a sample that is too long is cut, where that is possible.
        merged: tokens of each that the stage's token merging takes away; the index has them.

    Returns:
        int8 [samples]: the place of the first problem in `REASONS`, 0 for none.
    """
    length, text_length, placeholders, patches, supervised, media_end = (
        table[name].to_numpy() for name in NUMBERS
    )
    media, grids = grid_table(table["grids"])
    sample_of = np.repeat(np.arange(len(media)), media)
    tokens, whole = _expanded(grids, family)
    samples = len(media)
    images, arrays, empty, end = _members(table["members"], samples)
    found = np.zeros(samples, dtype=np.int8)
    limits = np.broadcast_to(max_length + merged, samples)
    for reason, wrong in (
        ("too_long", length > limits),
        ("too_many_patches", patches > (max_patches or np.inf)),
        ("members", (end > shard_bytes) | empty),
        ("arrays", arrays != ARRAYS),
        ("no_supervised", supervised < 1),
        ("labels", _wrong_answers(table["answers"], length, supervised) | (media_end > length)),
        (
            "length",
            length != text_length - placeholders + _sum(sample_of, tokens, samples),
        ),
        (
            "grid",
            (patches != _sum(sample_of, grids.prod(axis=1), samples))
            | (_sum(sample_of, ~whole, samples) > 0),
        ),
        ("placeholders", (placeholders != media) | (images != media)),
        ("dataset", _differs(table["dataset"], dataset)),
    ):
        found[wrong] = _REASON[reason]
    if truncate:
        long = np.flatnonzero(found == _REASON["too_long"])
        kept, _ = cut_samples(table.select(CUT_BY).take(long), limits[long])
        found[long[kept > 0]] = 0
    return found


def _differs(column: pa.ChunkedArray, dataset: str | None) -> np.ndarray:
    if dataset is None:
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.not_equal(column, dataset).fill_null(True))


def _sum(sample_of: np.ndarray, values: np.ndarray, samples: int) -> np.ndarray:
    """The values of each sample's media added up; exact, since far below 2**53."""
    return np.bincount(sample_of, weights=values, minlength=samples).astype(np.int64)


def _expanded(grids: np.ndarray, family: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each medium, and whether its sides are whole numbers of merged patches."""
    kinds, places = np.unique(grids, axis=0, return_inverse=True)
    tokens = np.array([family.visual_tokens(kind) for kind in kinds.tolist()], dtype=np.int64)
    whole = (kinds > 0).all(axis=1) & (kinds[:, 1:] % family.MERGE == 0).all(axis=1)
    places = places.reshape(-1)
    return tokens[places], whole[places]


def _wrong_answers(
    column: pa.ChunkedArray, length: np.ndarray, supervised: np.ndarray
) -> np.ndarray:
    """Whether a sample's runs of supervised tokens do not rise, leave it, or count otherwise."""
    answers = column.combine_chunks()
    counts = np.asarray(answers.value_lengths().fill_null(0), dtype=np.int64)
    edges = np.asarray(answers.flatten(), dtype=np.int64)
    sample_of = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    first = np.zeros(len(edges), dtype=bool)
    first[(ends - counts)[counts > 0]] = True
    falls = np.zeros(len(edges), dtype=bool)
    falls[1:] = edges[1:] <= edges[:-1]
    falls &= ~first
    outside = (edges < 0) | (edges > length[sample_of])
    bad = (counts % 2 == 1) | (_sum(sample_of, falls | outside, len(counts)) > 0)
    place = np.arange(len(edges)) - (ends - counts)[sample_of]
    signs = np.where(place % 2 == 1, 1, -1)
    # The first token of a sample is predicted from nothing.
    learned = _sum(sample_of, signs * np.maximum(edges, 1), len(counts))
    return bad | (learned != supervised)


def _members(column: pa.ChunkedArray, samples: int) -> tuple[np.ndarray, ...]:
    """Of each sample: images and arrays among its members, an empty one, and the last one's end."""
    members = column.combine_chunks()
    sample_of = np.repeat(np.arange(samples), np.asarray(members.value_lengths()))
    flat = members.flatten()
    is_image = pc.match_substring_regex(flat.field("name"), rf"\.\d+\.{IMAGE_SUFFIX}$")
    is_array = pc.match_substring_regex(flat.field("name"), r"\.(input_ids|labels)\.npy$")
    sizes = np.asarray(flat.field("size"))
    ends = np.zeros(samples, dtype=np.int64)
    np.maximum.at(ends, sample_of, np.asarray(flat.field("offset")) + sizes)
    images, arrays, empty = (
        _sum(sample_of, np.asarray(flags), samples) for flags in (is_image, is_array, sizes < 1)
    )
    return images, arrays, empty > 0, ends
