"""LLaVA and AuroraCap rows: ``.json``, ``.jsonl`` or parquet, one conversation a row.

    {"id": "7", "image": "a/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}

``image`` is a name, a list of names (views or frames) or absent, ``video`` likewise; ``id`` may be
missing or a number. `shardline.conversations` has the rules for turns and placeholders,
`shardline.media_paths` how media are found. Rows that have one caption instead, in
``caption`` or as Data-Juicer in ``text``, are read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardline.annotations import check_options
from shardline.conversations import COLUMNS as COMMON_COLUMNS
from shardline.conversations import caption_turns, fill_row, turns_of
from shardline.media_paths import MediaFinder
from shardline.records import filled, scan_files
from shardline.row_files import parse_value
from shardline.rows import RawRow, Rejection, Row, brief

DEFAULTS = {"annotations": None, "media_folders": [], "prefix": ""}
FRAMES = ()
COLUMNS = (*COMMON_COLUMNS, "conversations")


def scan(raw: Path, options: dict[str, Any]) -> Iterator[RawRow]:
    """Yield the rows of all annotation files, in the order of their names."""
    options = check_options(options, DEFAULTS, "format_options of llava")
    return scan_files(raw, options["annotations"], COLUMNS)


def parser(raw: Path, options: dict[str, Any]) -> Callable[[RawRow], Iterator[Row]]:
    """What yields the one row that a raw row is."""
    options = {**DEFAULTS, **options}
    finder = MediaFinder(raw, options["media_folders"], options["prefix"])

    def rows(raw_row: RawRow) -> Iterator[Row]:
        row = Row(file=raw_row.file, index=raw_row.index)
        yield filled(row, parse_value(raw_row.index, raw_row.value), finder, _fill)

    return rows


def _fill(row: Row, record: dict[str, Any], finder: MediaFinder) -> None:
    conversation = record.get("conversations")
    turns = caption_turns(record) if conversation is None else turns_of(conversation)
    if turns is None:
        raise Rejection("no_conversation", f"no `conversations` in {brief(sorted(record))}")
    fill_row(row, record, turns, finder)
