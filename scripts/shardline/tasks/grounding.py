"""UI grounding as ShowUI trains it: a screenshot, a description of an element, its point.

The answer is the text of a Python list of two fractions of the image's width and height, such as
``[0.65, 0.37]``: rounded, not padded with zeros. All elements of a screen are turns of one
conversation, the image is in the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from shardline.errors import SampleError
from shardline.samples import Sample, to_unit

PROMPT = (
    "Based on the screenshot of the page, I give a text description and you give its corresponding "
    "location. The coordinate represents a clickable location [x, y] for an element, which is a "
    "relative coordinate on the screenshot, scaled from 0 to 1."
)
DECIMALS = 2

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBERS = rf"\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*,?\s*"
_BRACKETED = re.compile(rf"\[({_NUMBERS})\]|\(({_NUMBERS})\)")
_BARE = re.compile(_NUMBERS)


def conversation(
    sample: Sample, options: Mapping[str, Any], seen: Any = None
) -> list[dict[str, Any]]:
    """All boxes of a sample as question and answer turns.

    Args:
        options: ``prompt``: replaces `PROMPT`; "" leaves only image and description.
            ``answer``: ``{"decimals": 2}``.
    """
    messages: list[dict[str, Any]] = []
    for index in range(len(sample.boxes)):
        messages.append(_ask(sample, index, options, first=index == 0))
        messages.append({"role": "assistant", "content": [_text(answer(sample, index, options))]})
    return messages


def question(
    sample: Sample, index: int, options: Mapping[str, Any], seen: Any = None
) -> list[dict[str, Any]]:
    """One box of a sample as a question with the image, for a model to answer."""
    return [_ask(sample, index, options, first=True)]


def answer(sample: Sample, index: int, options: Mapping[str, Any]) -> str:
    """The answer for one box: its point where the sample has one a box, else its centre.

    Raises:
        SampleError: ``no_image``, or ``point_outside`` it.
    """
    decimals = (options.get("answer") or {}).get("decimals", DECIMALS)
    x, y = target(sample, index)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise SampleError("point_outside", f"[{x}, {y}] of box {index} lies outside the image")
    return str([round(x, decimals), round(y, decimals)])


def target(sample: Sample, index: int) -> list[float]:
    """The point of a box, in fractions of the image's width and height."""
    if not sample.media:
        raise SampleError("no_image", "has boxes but no image")
    values = sample.boxes[index].xyxy
    if len(sample.points) == len(sample.boxes):
        point = sample.points[index].xy
    else:
        point = [(values[0] + values[2]) / 2, (values[1] + values[3]) / 2]
    return to_unit(point, sample.frame, sample.media[0].width, sample.media[0].height)


def parse(text: str, options: Mapping[str, Any], seen: Any = None) -> list[float] | None:
    """The point in an answer, as fractions, or None where there is none to be trusted.

    Read is the first list or tuple of numbers, whatever text is around it; four numbers are a box
    and give its centre. Refused: another count, numbers outside 0 to 1, NaN, quoted numbers, a
    list inside a list.
    """
    if found := _BRACKETED.search(text):
        if text[: found.start()].rstrip()[-1:] in ("[", "("):
            return None
        numbers = found[1] or found[2]
    elif _BARE.fullmatch(text):
        numbers = text
    else:
        return None
    values = [float(number) for number in numbers.split(",") if number.strip()]
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        return None
    if len(values) == 4:
        return [(values[0] + values[2]) / 2, (values[1] + values[3]) / 2]
    return values if len(values) == 2 else None


def _ask(sample: Sample, index: int, options: Mapping[str, Any], first: bool) -> dict[str, Any]:
    content = [_text(sample.boxes[index].label)]
    if first:
        content.insert(0, {"type": "image"})
        prompt = options.get("prompt")
        if prompt is None:
            prompt = PROMPT
        if prompt:
            content.insert(0, _text(prompt))
    return {"role": "user", "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
