"""LLaVA and AuroraCap rows: ``.json``, ``.jsonl`` or parquet, one conversation a row.

    {"id": "7", "image": "a/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}

``image`` is a name, a list of names (views or frames) or absent, ``video`` likewise; ``id`` may be
missing or a number. `shardline.conversations` has the rules for turns and placeholders,
`shardline.media_paths` how media are found. Rows of Data-Juicer that have one caption in ``text``
instead are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.annotations import check_options
from shardline.conversations import COLUMNS as COMMON_COLUMNS
from shardline.conversations import caption_turns, fill_row, turns_of
from shardline.media_paths import MediaFinder
from shardline.records import Record, read_records
from shardline.row_files import find_row_files
from shardline.rows import Rejection, Row, brief

DEFAULTS = {"annotations": None, "media_folders": [], "prefix": ""}
FRAMES = ()
COLUMNS = (*COMMON_COLUMNS, "conversations")


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of all annotation files, in the order of their names."""
    options = check_options(options, DEFAULTS, "format_options of llava")
    finder = MediaFinder(raw, options["media_folders"], options["prefix"])
    for file in find_row_files(raw, options["annotations"]):
        for index, record in read_records(raw, file, COLUMNS):
            row = Row(file=file, index=index)
            try:
                _fill(row, record, finder)
            except Rejection as rejection:
                row.rejection = rejection
            except RecursionError:
                row.rejection = Rejection("bad_row", "nested too deeply")
            yield row


def _fill(row: Row, record: Record, finder: MediaFinder) -> None:
    if isinstance(record, Rejection):
        raise record
    conversation = record.get("conversations")
    turns = caption_turns(record) if conversation is None else turns_of(conversation)
    if turns is None:
        raise Rejection("no_conversation", f"no `conversations` in {brief(sorted(record))}")
    fill_row(row, record, turns, finder)
