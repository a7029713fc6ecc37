"""The chat format of the Qwen-VL models: conversations as text, token ids and loss labels.

ChatML turns, ``<|vision_start|><|image_pad|><|vision_end|>`` for an image. No system turn is added
where a conversation has none: the published template adds one, so that training and serving differ
wherever the template is not saved along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from shardline.errors import DataError, SampleError

PLACEHOLDER = "<|image_pad|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    PLACEHOLDER,
    "<|video_pad|>",
)
IGNORED = -100  # the label that the loss of every HF model skips

# Of the published tokenizer: words, single digits, punctuation, line breaks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_IMAGE = f"<|vision_start|>{PLACEHOLDER}<|vision_end|>"
_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('a message part must be text or image') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


class Segment(NamedTuple):
    """A stretch of rendered text; ``supervised`` where the loss is taken."""

    text: str
    supervised: bool


def chat_template() -> str:
    """The jinja template that is saved with every model; `render` gives the same text."""
    return _TEMPLATE


def render(messages: Sequence[Mapping[str, Any]], generation_prompt: bool = False) -> list[Segment]:
    """A conversation as text, in stretches with and without loss.

    Supervised are the assistant's texts and the ``<|im_end|>`` that ends each of them.

    Args:
        messages: ``[{"role", "content"}]``, where the content is a text or a list of parts
            ``{"type": "text", "text": ...}`` and ``{"type": "image"}``.
        generation_prompt: open the assistant's turn at the end, for a model to answer.

    Raises:
        SampleError: ``special_token``: a text holds one.
        DataError: a part is neither text nor image.
    """
    segments: list[Segment] = []
    for message in messages:
        answer = message["role"] == "assistant"
        segments.append(Segment(f"<|im_start|>{message['role']}\n", False))
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for part in content:
            segments.append(Segment(_part_text(part), answer and part["type"] == "text"))
        segments.append(Segment(END_OF_TURN, answer))
        segments.append(Segment("\n", False))
    if generation_prompt:
        segments.append(Segment("<|im_start|>assistant\n", False))
    return [segment for segment in segments if segment.text]


def _part_text(part: Mapping[str, Any]) -> str:
    if part["type"] == "image":
        return _IMAGE
    if part["type"] != "text":
        raise DataError(f"a Qwen2-VL message part is text or image, not {part['type']!r}")
    if found := _SPECIAL.search(part["text"]):
        raise SampleError("special_token", f"{found[0]} in the text {part['text'][:200]!r}")
    return part["text"]


def encode(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    generation_prompt: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation as token ids and labels, with one placeholder a medium.

    Returns:
        ``input_ids`` int32 [L] as the HF tokenizer gives for the whole text, and ``labels`` int32
        [L], aligned with them (not shifted): the token's id where supervised, else -100.

    Raises:
        SampleError: as `render`; ``answer_border``: a token spans the border of a supervised
            stretch (an answer that starts with white space joins the line break before it), so
            that what is learned would not be what is asked at inference.
    """
    segments = render(messages, generation_prompt)
    encoding = tokenizer.encode("".join(text for text, _ in segments), add_special_tokens=False)
    input_ids = np.array(encoding.ids, dtype=np.int32)
    starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    supervised = np.zeros(len(input_ids), dtype=bool)
    position = 0
    for text, learned in segments:
        begin, position = position, position + len(text)
        if learned:
            supervised |= (starts >= begin) & (ends <= position)
            if np.any((starts < begin) & (ends > begin) | (starts < position) & (ends > position)):
                raise SampleError("answer_border", f"a token spans it: {text[:200]!r}")
    return input_ids, np.where(supervised, input_ids, IGNORED).astype(np.int32)


def train_tokenizer(
    conversations: Iterable[Sequence[Mapping[str, Any]]], vocab_size: int
) -> Tokenizer:
    """A byte-level BPE like the published one, trained on what `render` makes of conversations.

    Args:
        vocab_size: at most so many tokens, the 256 bytes and the special ones included.

    Returns:
        The tokenizer; the special tokens have the first ids, the same conversations in the same
        order give the same one.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()

    def texts() -> Iterator[str]:
        for messages in conversations:
            yield from filter(None, _SPECIAL.split("".join(text for text, _ in render(messages))))

    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer
