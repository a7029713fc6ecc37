"""The tokens of a sample as text, in stretches of what the loss sees and what it does not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from tokenizers import Tokenizer

from shardline.labels import IGNORED
from shardline.placeholders import media_types, placeholder_ids
from shardline.token_reader import StoredSample


@dataclass(frozen=True)
class Stretch:
    """Decoded tokens of one kind.

    ``kind``: ``plain``, ``learned`` (the loss sees them), ``medium``, or ``cut``: left out of the
    training. ``special``: a token of the template, not a text that reads the same.
    """

    kind: str
    text: str
    special: bool = False


def kinds_of(stored: StoredSample, cut: int, types: np.ndarray) -> np.ndarray:
    """The kind of each token, [L].

    Args:
        cut: tokens at the end that the plan leaves out; no medium is among them.
        types: above 0 where a token is a medium's placeholder.
    """
    kinds = np.where(stored.labels != IGNORED, "learned", "plain").astype(object)
    kinds[:1] = "plain"  # nothing predicts the first token
    kinds[types > 0] = "medium"
    kinds[len(kinds) - cut :] = "cut"
    return kinds


def stretches(
    stored: StoredSample, cut: int, tokenizer: Tokenizer, family: ModuleType
) -> list[Stretch]:
    """All tokens of a sample; a medium stands with the tokens it has, and its number of several."""
    placeholders = placeholder_ids(tokenizer, family)
    kinds = kinds_of(stored, cut, media_types(stored.input_ids, placeholders))
    special = set(tokenizer.get_added_tokens_decoder())
    ids = stored.input_ids.tolist()
    runs = zip(kinds.tolist(), [token in special for token in ids], ids, strict=True)
    media = iter(range(len(stored.grids)))
    found = []
    for (kind, is_special), group in itertools.groupby(runs, key=lambda run: run[:2]):
        part = [token for _, _, token in group]
        if kind == "medium":
            found += [_medium(token, next(media), stored, tokenizer, family) for token in part]
        else:
            text = decode(part, placeholders[0], tokenizer)
            found.append(Stretch(kind, text, special=is_special))
    return found


def _medium(
    token: int, number: int, stored: StoredSample, tokenizer: Tokenizer, family: ModuleType
) -> Stretch:
    size = family.visual_tokens(stored.grids[number])
    text = f"{tokenizer.id_to_token(token)} × {size:,}"
    if len(stored.grids) > 1:
        text += f" ({number + 1})"
    return Stretch("medium", text, special=True)


def decode(ids: Sequence[int], placeholder: int, tokenizer: Tokenizer) -> str:
    """Tokens from the middle of a text, with the space that they may begin with.

    A Llama tokenizer drops it at the start of what it decodes, so a placeholder is put there.
    """
    start = tokenizer.id_to_token(placeholder)
    text = tokenizer.decode([placeholder, *ids], skip_special_tokens=False)
    return text.removeprefix(start)
