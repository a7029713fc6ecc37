"""Samples over a stage's length whose last answer is cut, rather than that they are refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

CUT_BY = ["length", "supervised", "media_end", "answers"]
"""Columns of a shard's index."""


def cut(answers: Sequence[int], media_end: int, max_length: int) -> tuple[int, int]:
    """Where a sample is cut.

    The end is always in an answer, or at one's end: a question without an answer teaches nothing.

    Args:
        answers: start and end of each run of supervised tokens, expanded.
        media_end: tokens up to the last of a medium, which are never cut.

    Returns:
        Tokens kept, and how many of them the loss sees (the first token is predicted from
        nothing); both 0 if the sample cannot be cut.
    """
    runs = [
        (start, min(end, max_length))
        for start, end in zip(answers[::2], answers[1::2], strict=True)
        if start < max_length
    ]
    learned = sum(end - max(start, 1) for start, end in runs if end > 1)
    if not runs or runs[-1][1] < media_end or learned < 1:
        return 0, 0
    return runs[-1][1], learned


def cut_samples(table: pa.Table, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is kept of each sample of a shard's index.

    Args:
        table: with the columns `CUT_BY`.
        limits: int64 [samples], tokens of each at most. What token merging takes out of a sample's
            media is added to its limit: a cut comes after them all.

    Returns:
        int64 [samples] each: tokens kept and supervised tokens among them; 0 and 0 for a sample
        that is too long and cannot be cut.
    """
    kept = table["length"].to_numpy().astype(np.int64)
    learned = table["supervised"].to_numpy().astype(np.int64)
    too_long = np.flatnonzero(kept > limits)
    part = table.select(["answers", "media_end"]).take(too_long)
    columns = zip(part["answers"].to_pylist(), part["media_end"].to_pylist(), strict=True)
    for row, (answers, media_end) in zip(too_long.tolist(), columns, strict=True):
        kept[row], learned[row] = cut(answers, media_end, int(limits[row]))
    return kept, learned
