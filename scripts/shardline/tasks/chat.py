"""Conversations as the data has them: several turns, with any media or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardline.chat_tokens import parts_of
from shardline.errors import SampleError
from shardline.samples import Sample

MEDIA = ("image", "video")


def conversation(
    sample: Sample, options: Mapping[str, Any], seen: Any = None
) -> list[dict[str, Any]]:
    """A sample's messages; a system turn is there only if the data has one.

    Raises:
        SampleError: ``no_messages``; ``no_answer``: none is the assistant's; ``placeholders``: the
            messages show other media than the sample has.
    """
    if not sample.messages:
        raise SampleError("no_messages", "it has no conversation")
    if all(message["role"] != "assistant" for message in sample.messages):
        raise SampleError("no_answer", "no message is the assistant's")
    shown = _shown(sample.messages)
    media = [medium.kind for medium in sample.media]
    if shown != media:
        raise SampleError("placeholders", f"the messages show {shown}, the sample has {media}")
    return sample.messages


def question(
    sample: Sample, index: int, options: Mapping[str, Any], seen: Any = None
) -> list[dict[str, Any]]:
    """What a model reads before it gives the answer number ``index`` (from 0)."""
    answers = 0
    for number, message in enumerate(sample.messages):
        if message["role"] == "assistant":
            if answers == index:
                return sample.messages[:number]
            answers += 1
    return sample.messages


def parse(text: str, options: Mapping[str, Any], seen: Any = None) -> None:
    """No point is read from an answer in words."""


def _shown(messages: list[dict[str, Any]]) -> list[str]:
    kinds = (part["type"] for message in messages for part in parts_of(message))
    return [kind for kind in kinds if kind in MEDIA]
