"""The preflight gate: finds, on the CPU, each sample that would crash or poison a training step."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardline.token_index import grid_table

COLUMNS = (
    "length",
    "text_length",
    "placeholders",
    "patches",
    "supervised",
    "grids",
    "members",
)
REASONS = (
    "",
    "placeholders",  # not one a medium, or an image is missing in the shard
    "grid",  # not whole tokens, or other than the sample's patches
    "length",  # the grids expand to another length
    "no_supervised",
    "too_long",
    "members",  # they lie outside the shard
)
_REASON = {reason: code for code, reason in enumerate(REASONS)}


def preflight(table: pa.Table, shard_bytes: int, family: ModuleType, max_length: int) -> np.ndarray:
    """Check every sample of a shard's index.

    Args:
        table: the `COLUMNS` of the index.
        shard_bytes: size of the tar.
        family: says into how many tokens a grid expands.
        max_length: tokens of a pack.

    Returns:
        int8 [samples]: the place of the first problem in `REASONS`, 0 for none.
    """
    length, text_length, placeholders, patches, supervised = (
        table[name].to_numpy() for name in COLUMNS[:5]
    )
    media, grids = grid_table(table["grids"])
    sample_of = np.repeat(np.arange(len(media)), media)
    tokens, whole = _expanded(grids, family)
    samples = len(media)
    images, end = _members(table["members"], samples)
    found = np.zeros(samples, dtype=np.int8)
    for reason, wrong in (
        ("members", end > shard_bytes),
        ("too_long", length > max_length),
        ("no_supervised", supervised < 1),
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
    ):
        found[wrong] = _REASON[reason]
    return found


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


def _members(column: pa.ChunkedArray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample: how many images its members have, and where the last member ends."""
    members = column.combine_chunks()
    sample_of = np.repeat(np.arange(samples), np.asarray(members.value_lengths()))
    flat = members.flatten()
    is_image = pc.match_substring_regex(flat.field("name"), r"\.\d+\.png$")
    ends = np.zeros(samples, dtype=np.int64)
    np.maximum.at(ends, sample_of, np.asarray(pc.add(flat.field("offset"), flat.field("size"))))
    return _sum(sample_of, np.asarray(is_image), samples), ends
