"""Placeholders: a stored sample has one token a medium, the model as many as the medium has."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from tokenizers import Tokenizer

from shardline.errors import DataError


def placeholder_ids(tokenizer: Tokenizer, family: ModuleType) -> list[int]:
    """The ids of a family's placeholders: the image's first, then the video's if it has one."""
    return [tokenizer.token_to_id(token) for token in family.PLACEHOLDERS]


def media_types(input_ids: np.ndarray, placeholders: Sequence[int]) -> np.ndarray:
    """int64 [L]: 0 for text, 1 for an image's placeholder, 2 for a video's."""
    types = np.zeros(len(input_ids), dtype=np.int64)
    for kind, placeholder in enumerate(placeholders, start=1):
        types[input_ids == placeholder] = kind
    return types


def repeat_placeholders(
    input_ids: np.ndarray, labels: np.ndarray, sizes: Sequence[int], placeholders: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [L] with each placeholder as often as its medium has tokens.

    Args:
        sizes: tokens of each medium, in order.

    Raises:
        DataError: there are more or fewer placeholders than media.
    """
    places = np.flatnonzero(np.isin(input_ids, placeholders))
    if len(places) != len(sizes):
        raise DataError(f"{len(places)} placeholders for {len(sizes)} media")
    counts = np.ones(len(input_ids), dtype=np.int64)
    counts[places] = sizes
    return np.repeat(input_ids, counts), np.repeat(labels, counts)
