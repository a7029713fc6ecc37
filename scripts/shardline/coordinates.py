"""Points and boxes as a model writes them, and read back from what it wrote.

A style is how the numbers are written, a frame in what they are measured; ``label`` is what was
asked for:

=========  ================================================  =======================================
style      a point                                           a box
=========  ================================================  =======================================
``list``   ``[0.65, 0.37]``                                  ``[0.1, 0.2, 0.3, 0.4]``
``tags``   ``(650,370)`` in ``<|box_start|>``, ``<|box_end|>``  ``(100,200),(300,400)`` in the same
``json``   ``{"point_2d": [650, 370], "label": "Save"}``     ``{"bbox_2d": [...], "label": "Save"}``
``click``  ``Click(650, 370)``                               there is none
=========  ================================================  =======================================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from shardline.errors import DataError

DECIMALS = 2
DEFAULTS = {"target": "point", "frame": "unit", "style": "list", "decimals": DECIMALS}

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBERS = rf"\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*,?\s*"
_BRACKETED = re.compile(rf"\[({_NUMBERS})\]|\(({_NUMBERS})\)")
_BARE = re.compile(_NUMBERS)
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_PAIRS = re.compile(rf"{_PAIR}(?:\s*,?\s*{_PAIR})?")
_KEYED = re.compile(rf'"(?:point|bbox)_2d"\s*:\s*\[({_NUMBERS})\]')


def write(
    values: Sequence[float], label: str, answer: Mapping[str, Any], seen: Sequence[tuple[int, int]]
) -> str:
    """The text of a point ``[x, y]`` or a box ``[left, top, right, bottom]``.

    Args:
        values: fractions of the picture's width and height.
        answer: ``frame``, ``style`` and ``decimals`` (of a fraction; the rest are whole numbers).
        seen: width and height in pixels of each picture as the model sees it.
    """
    options = {**DEFAULTS, **answer}
    numbers: list[float] = []
    for place, value in enumerate(values):
        if options["frame"] == "unit":
            numbers.append(round(value, options["decimals"]))
        else:
            numbers.append(round(value * _scale(options, seen)[place % 2]))
    style = options["style"]
    if style == "tags":
        return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
    if style == "json":
        key = "point_2d" if len(numbers) == 2 else "bbox_2d"
        return json.dumps({key: numbers, "label": label}, ensure_ascii=False)
    return f"Click({numbers[0]}, {numbers[1]})" if style == "click" else str(numbers)


def read(
    text: str, answer: Mapping[str, Any], seen: Sequence[tuple[int, int]]
) -> list[float] | None:
    """The point that an answer names as fractions, of a box its centre; see `read_values`."""
    values = read_values(text, answer, seen)
    if values is not None and len(values) == 4:
        return [(values[0] + values[2]) / 2, (values[1] + values[3]) / 2]
    return values


def read_values(
    text: str, answer: Mapping[str, Any], seen: Sequence[tuple[int, int]]
) -> list[float] | None:
    """The point or box that an answer names, as fractions; None if not to be trusted.

    The first of its kind counts, whatever text is around it. Refused: another count of numbers than
    two or four, numbers outside the picture, NaN, quoted numbers, a list inside a list.
    """
    options = {**DEFAULTS, **answer}
    finder = {"tags": _read_pairs, "json": _read_keyed}.get(options["style"], _read_list)
    numbers = finder(text)
    if numbers is None or len(numbers) not in (2, 4):
        return None
    scale = (1.0, 1.0) if options["frame"] == "unit" else _scale(options, seen)
    values = [number / scale[place % 2] for place, number in enumerate(numbers)]
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        return None
    return values


def _scale(options: Mapping[str, Any], seen: Sequence[tuple[int, int]]) -> tuple[float, float]:
    if options["frame"] == "per_mille":
        return 1000.0, 1000.0
    if not seen:
        raise DataError("an answer in pixels needs the size at which the model saw the picture")
    return float(seen[0][0]), float(seen[0][1])


def _read_list(text: str) -> list[float] | None:
    if found := _BRACKETED.search(text):
        if text[: found.start()].rstrip()[-1:] in ("[", "("):
            return None
        return _floats(found[1] or found[2])
    return _floats(text) if _BARE.fullmatch(text) else None


def _read_pairs(text: str) -> list[float] | None:
    found = _PAIRS.search(text)
    return [float(number) for number in found.groups() if number is not None] if found else None


def _read_keyed(text: str) -> list[float] | None:
    found = _KEYED.search(text)
    return _floats(found[1]) if found else None


def _floats(numbers: str) -> list[float]:
    return [float(number) for number in numbers.split(",") if number.strip()]
