"""What a format module yields: one row of an annotation file, read but not yet checked.

A format is one module in ``shardline/formats`` with::

    DEFAULTS: dict                                     # its format_options and their defaults
    FRAMES: tuple[str, ...]                            # optional: the only frames it can have,
                                                       # () if it has no boxes
    def read(raw: Path, options: dict) -> Iterator[Row]

It finds the annotation files and says what each row claims. Whether the claims hold (numbers,
boxes, images) is checked afterwards, by one code for all formats.

A format of many rows may be in two halves, of which the second is run by all workers::

    def scan(raw: Path, options: dict) -> Iterator[RawRow]         # finds the rows, in order
    def parser(raw: Path, options: dict) -> Callable[[RawRow], Iterator[Row]]  # one as any other
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shardline.samples import Medium


class Rejection(Exception):
    """Why a row or an element is not used: a short reason to count by, and the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # what it is made of anew in another process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def brief(value: Any, limit: int = 160) -> str:
    """A value as a message shows it: its `repr`, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class RawRow(NamedTuple):
    """A row as its file has it: a line's bytes, a value, or why it is neither; see `Row`."""

    file: str
    index: int
    value: Any
    block: str = ""


@dataclass(kw_only=True)
class Element:
    """One labelled rectangle as the source has it, every value unchecked.

    ``box`` and ``point`` are in the dataset's declared frame; ``pixel_box`` is the same box once
    more in pixels (same corner style), where the source states it twice.
    """

    label: Any
    box: Any
    point: Any = None
    kind: str = ""
    pixel_box: Any = None


@dataclass(kw_only=True)
class Row:
    """One source row: either its content or the ``rejection`` that reading it ended in.

    ``file`` is relative to the raw folder and ``index`` counts from 0 in it. ``media`` have the
    declared size, or 0 where none is declared. ``cell`` is the benchmark's sub-group, if any.
    Rows with the same ``block`` that follow each other may share a shard, though their files differ
    (each is a small file of its own); by default it is the file. ``clipped`` counts boxes that the
    format itself had to check and moved onto the image's edges.
    """

    file: str
    index: int
    part: int | None = None
    media: list[Medium] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    group: str = ""
    cell: str = ""
    block: str = ""
    clipped: int = 0
    meta: dict[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None

    @property
    def name(self) -> str:
        """``<annotation file>#<index>``: unique in a dataset, and where to look for the row.

        A part of a row that holds several has ``<annotation file>#<index>.<part>``.
        """
        part = "" if self.part is None else f".{self.part}"
        return f"{self.file}#{self.index}{part}"
