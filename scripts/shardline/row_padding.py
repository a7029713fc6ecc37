"""Rows of fixed lengths: tokens behind a sample's end that nothing sees and no loss is taken of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from shardline.labels import IGNORED

PADDING = 0  # any id will do
FILL = {"input_ids": PADDING, "labels": IGNORED, "mm_token_type_ids": 0}

Row = dict[str, Any]


def pad_samples(row: Row) -> Row:
    """The row with every sample as long as its longest."""
    lengths = row["cu_seq_lens_q"].diff().tolist()
    return _padded(row, lengths, [max(lengths)] * len(lengths))


def pad_row(row: Row, length: int) -> Row:
    """The row made ``length`` tokens long by a segment of padding of its own."""
    lengths = row["cu_seq_lens_q"].diff().tolist()
    missing = length - sum(lengths)
    return _padded(row, [*lengths, 0], [*lengths, missing]) if missing else row


def cut_tail(row: Row, longest: int, segments: int) -> Row:
    """The row with bounds of a fixed number, for code that is compiled for their shape.

    The last segment is cut into such of at most ``longest`` tokens, and empty ones follow.

    Args:
        row: its last segment is padding, or not longer.
        segments: at least as many as that makes.
    """
    bounds = row["cu_seq_lens_q"].tolist()
    cuts = range(bounds[-2] + longest, bounds[-1], longest)
    bounds = [*bounds[:-1], *cuts, bounds[-1]]
    bounds += bounds[-1:] * (segments + 1 - len(bounds))
    bounds = torch.tensor(bounds, dtype=torch.int32)
    return row | {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _padded(row: Row, lengths: Sequence[int], wanted: Sequence[int]) -> Row:
    """Each segment made as long as wanted; positions count on from its last, or from 0."""
    padded = {}
    for name, fill in FILL.items():
        parts = row[name][0].split(list(lengths))
        pairs = zip(parts, wanted, strict=True)
        rows = [
            torch.nn.functional.pad(part, (0, size - len(part)), value=fill) for part, size in pairs
        ]
        padded[name] = torch.cat(rows)[None]
    places = []
    for part, size in zip(row["position_ids"].split(list(lengths), dim=-1), wanted, strict=True):
        known = part.shape[-1]
        start = int(part.max()) + 1 if known else 0
        follow = torch.arange(start, start + size - known).expand(*part.shape[:-1], -1)
        places.append(torch.cat([part, follow], dim=-1))
    bounds = torch.tensor([0, *wanted], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return (
        row
        | padded
        | {
            "position_ids": torch.cat(places, dim=-1),
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(wanted),
            "max_length_k": max(wanted),
        }
    )
