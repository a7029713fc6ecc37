"""The chat format of Vicuna, as LLaVA-style models are trained on it.

``USER: ... ASSISTANT: ...</s>``, a line break between turns, ``<image>`` for an image or a video.
No system text is added where a conversation has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from shardline.chat_tokens import Segment, encode_segments, parts_of, plain_text
from shardline.errors import DataError

PLACEHOLDERS = ("<image>",)
UNKNOWN = "<unk>"
BEGIN = "<s>"
END = "</s>"
PAD = "<pad>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END, PAD, *PLACEHOLDERS)

_MEDIA = ("image", "video")
_OPENING = {"system": "", "user": "USER: ", "assistant": "ASSISTANT:"}
_CLOSING = {"system": "\n", "user": " "}
_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part['type'] in ['image', 'video'] -%}
{{- '<image>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('a message part must be text, image or video') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' + text_of(message['content']) + '</s>\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- 'USER: ' + text_of(message['content']) + ' ' -}}
{%- else -%}
{{- text_of(message['content']) + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
"""


def chat_template() -> str:
    """The jinja template that is saved with every model; `render` gives the same text."""
    return _TEMPLATE


def render(messages: Sequence[Mapping[str, Any]], generation_prompt: bool = False) -> list[Segment]:
    """A conversation as text, in stretches that are answers and others.

    Answers are the assistant's texts, with the blank in front, and the ``</s>`` after each.

    Args:
        messages: ``[{"role", "content"}]``, where the content is a text or a list of parts
            ``{"type": "text", "text": ...}``, ``{"type": "image"}`` and ``{"type": "video"}``.
        generation_prompt: open the assistant's turn at the end, for a model to answer.

    Raises:
        SampleError: ``special_token``: a text holds one.
        DataError: a part or a role is of another type.
    """
    segments: list[Segment] = []
    for message in messages:
        role = message["role"]
        if role not in _OPENING:
            raise DataError(f"a message is by {role!r}; allowed: {', '.join(_OPENING)}")
        segments.append(Segment(_OPENING[role], False))
        blank = " " if role == "assistant" else ""
        for part in parts_of(message):
            text = _part_text(part)
            segments.append(Segment(blank + text, role == "assistant" and part["type"] == "text"))
            blank = ""
        if role == "assistant":
            segments += [Segment(END, True), Segment("\n", False)]
        else:
            segments.append(Segment(_CLOSING[role], False))
    if generation_prompt:
        segments.append(Segment(_OPENING["assistant"], False))
    return [segment for segment in segments if segment.text]


def _part_text(part: Mapping[str, Any]) -> str:
    if part["type"] in _MEDIA:
        return PLACEHOLDERS[0]
    if part["type"] != "text":
        raise DataError(f"a Vicuna message part is text, image or video, not {part['type']!r}")
    return plain_text(part["text"], SPECIAL_TOKENS)


def encode(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    generation_prompt: bool = False,
    loss: str = "answers",
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation as token ids and labels int32 [L], with one placeholder a medium.

    The ids are the HF tokenizer's for the whole text, ``<s>`` first; ``loss`` and errors as
    `encode_segments` and `render` have them.
    """
    placeholders = [tokenizer.token_to_id(token) for token in PLACEHOLDERS]
    segments = render(messages, generation_prompt)
    return encode_segments(
        tokenizer, segments, placeholders, loss, first=[tokenizer.token_to_id(BEGIN)]
    )


def train_tokenizer(
    conversations: Iterable[Sequence[Mapping[str, Any]]], vocab_size: int
) -> Tokenizer:
    """A BPE with bytes for what it has no token of, like Llama's, trained on conversations.

    Args:
        vocab_size: at most so many tokens, the 256 bytes and the special ones included.

    Returns:
        The tokenizer; the same conversations in the same order give the same one.
    """
    learning = Tokenizer(BPE())
    learning.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )

    def texts() -> Iterator[str]:
        for messages in conversations:
            for text, _ in render(messages):
                if text not in SPECIAL_TOKENS:
                    yield text

    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=max(1, (vocab_size - 256 - len(SPECIAL_TOKENS)) // 2),
        show_progress=False,
    )
    learning.train_from_iterator(texts(), trainer)
    return _tokenizer(learning)


def _tokenizer(learned: Tokenizer) -> Tokenizer:
    """The tokenizer of the learned vocabulary, of which only `SPECIAL_TOKENS` are special."""
    model = json.loads(learned.to_str())["model"]
    tokenizer = Tokenizer(
        BPE(
            vocab=model["vocab"],
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
