"""What is checked of a sample's token arrays when they are made, and what planning needs of them.

A plan opens no tar: whatever only the arrays can tell is either refused here, or a column of the
shard's index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from shardline.errors import SampleError
from shardline.labels import IGNORED
from shardline.samples import Sample

PACK = "pack"
"""Key of a sample's ``meta``: the name of the pack that its source put it in."""


def check_arrays(
    input_ids: np.ndarray, labels: np.ndarray, placeholders: Sequence[int], tokenizer: Tokenizer
) -> None:
    """Refuse arrays that would crash a step, or teach what was not meant.

    Args:
        input_ids, labels: of one sample, with one placeholder a medium.
        placeholders: their ids.

    Raises:
        SampleError: ``label_count``, ``label_differs``, ``placeholder_supervised`` or
            ``vocabulary``.
    """
    if input_ids.shape != labels.shape or input_ids.ndim != 1:
        raise SampleError("label_count", f"labels {labels.shape} for tokens {input_ids.shape}")
    learned = labels != IGNORED
    if np.any(learned & np.isin(input_ids, placeholders)):
        raise SampleError("placeholder_supervised", "the place of a medium would be learned")
    if np.any(wrong := learned & (labels != input_ids)):
        place = int(np.flatnonzero(wrong)[0])
        found = f"{labels[place]} for the id {input_ids[place]} of token {place}"
        raise SampleError("label_differs", f"the label is {found}")
    least, most = (int(input_ids.min()), int(input_ids.max())) if len(input_ids) else (0, 0)
    if least < 0 or tokenizer.id_to_token(most) is None:
        raise SampleError("vocabulary", f"ids {least} to {most}, not all are of the tokenizer")


def check_grid(grid: Sequence[int], merge: int) -> None:
    """Refuse a medium whose patches are no whole tokens.

    Raises:
        SampleError: ``grid``.
    """
    time, height, width = grid
    if min(grid) < 1 or height % merge or width % merge:
        raise SampleError("grid", f"{time}x{height}x{width} patches are no whole tokens")


def planning_columns(
    sample: Sample, input_ids: np.ndarray, labels: np.ndarray, placeholders: Sequence[int]
) -> dict[str, Any]:
    """Columns of the index that only planning reads.

    Args:
        input_ids, labels: expanded.
        placeholders: ids that stand for media.

    Returns:
        ``group`` and ``pack`` of the sample; ``media_end``: tokens up to the last of a medium;
        ``answers``: start and end of each run of supervised tokens.
    """
    media = np.flatnonzero(np.isin(input_ids, placeholders))
    edges = np.diff(np.concatenate([[False], labels != IGNORED, [False]]).astype(np.int8))
    return {
        "group": group_of(sample),
        "pack": pack_of(sample),
        "media_end": int(media[-1]) + 1 if len(media) else 0,
        "answers": np.flatnonzero(edges).tolist(),
    }


def group_of(sample: Sample) -> str:
    """What a split must not tear apart: the sample's group, else its first medium, else nothing."""
    return sample.group or (sample.media[0].sha256 if sample.media else "")


def pack_of(sample: Sample) -> str:
    """The pack that the sample's source put it in, else nothing."""
    return str(sample.meta.get(PACK, ""))
