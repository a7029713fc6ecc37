"""The chat format of the Qwen-VL models: conversations as text, token ids and loss labels.

ChatML turns, ``<|vision_start|><|image_pad|><|vision_end|>`` for an image (``<|video_pad|>`` for a
video). No system turn is added where a conversation has none: the published template adds one, so
that training and serving differ wherever the template is not saved along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from shardline.chat_tokens import Segment, encode_segments, parts_of, plain_text
from shardline.errors import DataError

PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")
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
    *PLACEHOLDERS,
)

# Of the published tokenizer: words, single digits, punctuation, line breaks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MEDIA = {
    kind: f"<|vision_start|>{placeholder}<|vision_end|>"
    for kind, placeholder in zip(("image", "video"), PLACEHOLDERS, strict=True)
}
_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'box' -%}
{{- '<|box_start|>' + part['text'] + '<|box_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('a message part must be text, box, image or video') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def chat_template() -> str:
    """The jinja template that is saved with every model; `render` gives the same text."""
    return _TEMPLATE


def render(messages: Sequence[Mapping[str, Any]], generation_prompt: bool = False) -> list[Segment]:
    """A conversation as text, in stretches that are answers and others.

    Answers are the assistant's texts and the ``<|im_end|>`` that ends each of them.

    Args:
        messages: ``[{"role", "content"}]``, where the content is a text or a list of parts
            ``{"type": "text", "text": ...}``, ``{"type": "image"}``, ``{"type": "video"}`` and
            ``{"type": "box", "text": ...}``, which is written between ``<|box_start|>`` and
            ``<|box_end|>``.
        generation_prompt: open the assistant's turn at the end, for a model to answer.

    Raises:
        SampleError: ``special_token``: a text holds one.
        DataError: a part is of another type.
    """
    segments: list[Segment] = []
    for message in messages:
        answer = message["role"] == "assistant"
        segments.append(Segment(f"<|im_start|>{message['role']}\n", False))
        for part in parts_of(message):
            segments.append(Segment(_part_text(part), answer and part["type"] not in _MEDIA))
        segments.append(Segment(END_OF_TURN, answer))
        segments.append(Segment("\n", False))
    if generation_prompt:
        segments.append(Segment("<|im_start|>assistant\n", False))
    return [segment for segment in segments if segment.text]


def _part_text(part: Mapping[str, Any]) -> str:
    kind = part["type"]
    if kind in _MEDIA:
        return _MEDIA[kind]
    if kind not in ("text", "box"):
        raise DataError(f"a Qwen-VL message part is text, box, image or video, not {kind!r}")
    text = plain_text(part["text"], SPECIAL_TOKENS)
    return f"<|box_start|>{text}<|box_end|>" if kind == "box" else text


def encode(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    generation_prompt: bool = False,
    loss: str = "answers",
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation as token ids and labels int32 [L], with one placeholder a medium.

    The ids are the HF tokenizer's for the whole text; ``loss`` and errors as `encode_segments`
    and `render` have them.
    """
    placeholders = [tokenizer.token_to_id(token) for token in PLACEHOLDERS]
    return encode_segments(tokenizer, render(messages, generation_prompt), placeholders, loss)


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

    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))

    def texts() -> Iterator[str]:
        for messages in conversations:
            yield from filter(None, special.split("".join(text for text, _ in render(messages))))

    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer
