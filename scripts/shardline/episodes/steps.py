"""Episodes, their steps and actions, and reading where on a screenshot an action is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from shardline.annotations import ImageFinder, is_text
from shardline.boxes import check_box, parse_frame, parse_numbers
from shardline.images import ORIENTATION_TAG, TURNED, UNDECODABLE
from shardline.rows import Rejection
from shardline.samples import Medium, to_unit

Position = list[float] | list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What can be done on a kind of screen: the screen's name, and each action's arguments."""

    screen: str
    actions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action; its position is ``[x, y]``, or two of them, in fractions of the screenshot."""

    name: str
    value: str | None = None
    position: Position | None = None

    def to_json(self, decimals: int | None = None) -> dict[str, Any]:
        """The action as ShowUI's dictionary, rounded if ``decimals`` are given."""
        position = self.position
        if position is not None and decimals is not None:
            position = _rounded(position, decimals)
        return {"action": self.name, "value": self.value, "position": position}


@dataclass(kw_only=True)
class Step:
    """One step as a layout reads it: what was seen, and what was done then.

    ``file``, ``index`` and ``part`` are the row's, ``number`` is the step's in its episode; the
    ``task`` is unchecked. A step with a ``rejection`` may still have been done: then it has an
    image and actions, and belongs to the history of the next ones. ``clipped`` counts boxes whose
    edges were moved onto the screenshot's.
    """

    file: str
    index: int
    part: int | None = None
    number: int
    task: Any = None
    block: str = ""
    image: Medium | None = None
    actions: list[Action] = field(default_factory=list)
    clipped: int = 0
    meta: dict[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None


@dataclass(kw_only=True)
class Episode:
    """The steps of one task, and in which space they are."""

    name: str
    space: Space
    steps: list[Step] = field(default_factory=list)


class Screens:
    """Finds the screenshots of steps; one that is not there is a rejection."""

    def __init__(self, raw: Path, folders: Sequence[str], endings: Sequence[str] = ("",)) -> None:
        """``endings`` are tried behind a name, in their order."""
        self.raw = raw
        self.finder = ImageFinder(raw, list(dict.fromkeys(folders)))
        self.endings = endings

    def find(self, name: Any, declared_size: Any = None) -> Medium:
        """The screenshot of a name.

        Raises:
            Rejection: no name, an unsafe one, a declared size that is none, or no such file.
        """
        for ending in self.endings:
            with_ending = name + ending if isinstance(name, str) and name.strip() else name
            medium = self.finder.medium(with_ending, declared_size)
            if (self.raw / medium.path).is_file():
                return medium
        raise Rejection("missing_image", f"{medium.path}: no such file")

    def measure(self, medium: Medium) -> None:
        """Set the size of a screenshot that declares none, from its file's header.

        Raises:
            Rejection: the header is no image's.
        """
        if medium.width:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the audit has the limit of pixels
                with Image.open(self.raw / medium.path) as image:
                    size = image.size
                    if image.getexif().get(ORIENTATION_TAG, 1) in TURNED:
                        size = size[1], size[0]
        except UNDECODABLE as error:
            raise Rejection("corrupt_image", f"{medium.path}: {type(error).__name__}") from None
        medium.width, medium.height = size


def box_centre(value: Any, frame: str, width: int, height: int) -> tuple[list[float], bool]:
    """The centre of a box in fractions of the screenshot, and whether the box was clipped.

    Args:
        value: the box as the source has it.
        frame: one of `boxes.FRAMES`.
        width: the screenshot's, in pixels.
        height: the screenshot's, in pixels.

    Raises:
        Rejection: as `boxes.check_box`.
    """
    corners, clipped = check_box(value, frame, width, height)
    left, top, right, bottom = to_unit(corners, parse_frame(frame)[0], width, height)
    return [(left + right) / 2, (top + bottom) / 2], clipped


def point(value: Any, width: float = 1, height: float = 1) -> list[float]:
    """A point on a screenshot of ``width`` x ``height``, in fractions of it.

    Raises:
        Rejection: ``bad_point``, ``outside_image``.
    """
    try:
        x, y = parse_numbers(value, 2)
    except Rejection as problem:
        raise Rejection("bad_point", problem.detail) from None
    if not (0 <= x <= width and 0 <= y <= height):
        raise Rejection("outside_image", f"the point [{x:g}, {y:g}] of {width:g} x {height:g}")
    return [x / width, y / height]


def text_of(value: Any, what: str) -> str:
    """Text, or a number as text.

    Raises:
        Rejection: ``bad_action``: anything else; ``bad_text``: half a character in it.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if not isinstance(value, str):
        raise Rejection("bad_action", f"{what} is a {type(value).__name__}, not text")
    if not is_text(value):
        raise Rejection("bad_text", f"{what} has half a surrogate pair, which is no character")
    return value


def _rounded(position: Position, decimals: int) -> Position:
    if isinstance(position[0], list):
        return [_rounded(part, decimals) for part in position]
    return [round(value, decimals) + 0.0 for value in position]
