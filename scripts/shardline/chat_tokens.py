"""From rendered text to token ids and loss labels, for every chat format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from shardline.errors import DataError, SampleError
from shardline.labels import IGNORED


class Segment(NamedTuple):
    """A stretch of rendered text; ``answer`` where a model is to write it."""

    text: str
    answer: bool


def parts_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The parts of a message; a text alone is one part."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def plain_text(text: str, special_tokens: tuple[str, ...]) -> str:
    """A text that the tokenizer will read as text.

    Raises:
        SampleError: ``special_token``: it holds one, which would be read as such.
    """
    if found := _pattern(special_tokens).search(text):
        raise SampleError("special_token", f"{found[0]} in the text {text[:200]!r}")
    return text


def read_tokenizer(folder: Path, tokens: Sequence[str], kind: str) -> Tokenizer:
    """The tokenizer of a model folder, from its ``tokenizer.json`` alone.

    Args:
        tokens: that it must have; ``kind``: of tokenizer, for messages.

    Raises:
        DataError: there is no such file, or a token is missing in it.
    """
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"{file}: no such file; a model folder has the tokenizer of its model")
    tokenizer = Tokenizer.from_file(str(file))
    for token in tokens:
        if tokenizer.token_to_id(token) is None:
            raise DataError(f"{file}: has no token {token}; it is not a {kind} tokenizer")
    return tokenizer


@cache
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens)))


def encode_segments(
    tokenizer: Tokenizer,
    segments: Sequence[Segment],
    placeholders: Sequence[int],
    loss: str,
    first: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the joined segments, and labels aligned with them (not shifted).

    Args:
        segments: none of them empty; the last one is what follows the last turn.
        placeholders: ids that stand for media and are never learned.
        loss: ``answers``: on what a model writes; ``all``: on prompts and turn marks, too, but for
            placeholders and what follows the last turn.
        first: ids put in front, never learned.

    Returns:
        int32 [L] each; a label is the token's id where it is learned, else -100.

    Raises:
        SampleError: ``answer_border``: a token spans the border of an answer (one that starts with
            white space may join the line break before it), so that what is learned would not be
            what is asked at inference.
    """
    encoding = tokenizer.encode("".join(text for text, _ in segments), add_special_tokens=False)
    input_ids = np.array(encoding.ids, dtype=np.int32)
    offsets = chain.from_iterable(encoding.offsets)
    starts, ends = np.fromiter(offsets, dtype=np.int64).reshape(-1, 2).T
    learned = np.zeros(len(input_ids), dtype=bool)
    position = begin = 0
    for text, answer in segments:
        begin, position = position, position + len(text)
        if answer:
            learned |= (starts >= begin) & (ends <= position)
            if np.any((starts < begin) & (ends > begin) | (starts < position) & (ends > position)):
                raise SampleError("answer_border", f"a token spans it: {text[:200]!r}")
    if loss == "all":
        learned = (starts < begin) & ~np.isin(input_ids, placeholders)
    labels = np.where(learned, input_ids, IGNORED)
    front = np.array(first, dtype=np.int32)
    return (
        np.concatenate([front, input_ids]),
        np.concatenate([np.full_like(front, IGNORED), labels]).astype(np.int32),
    )
