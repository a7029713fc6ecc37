"""The records of an annotation file: its rows, as far as they are objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.embedded import place_of
from shardline.media_paths import MediaFinder
from shardline.row_files import find_row_files, read_rows, scan_rows
from shardline.rows import RawRow, Rejection, Row, brief

Record = dict[str, Any] | Rejection
SMALL = 1 << 20  # bytes of an annotation file


def read_records(raw: Path, file: str, columns: Sequence[str]) -> Iterator[tuple[int, Record]]:
    """Yield number, from 0, and record of an annotation file, or why a row is none.

    Args:
        raw: the raw folder.
        file: the file, relative to it; its ending tells how it is read, see `row_files`.
        columns: of a parquet file, those that it has.

    Raises:
        DataError: the file is not what its ending says.
    """
    if file.endswith(".parquet"):
        from shardline.parquet_rows import read_parquet

        rows = read_parquet(raw, file, wanted=columns)
    else:
        rows = read_rows(raw, file)
    for index, value in rows:
        if isinstance(value, dict | Rejection):
            yield index, value
        else:
            yield index, Rejection("bad_row", f"{brief(value)}, not an object")


def scan_files(raw: Path, pattern: str | None, columns: Sequence[str]) -> Iterator[RawRow]:
    """Yield the rows of all annotation files, unparsed; see `row_files.find_row_files`.

    Small files of one folder share blocks: a thousand files of a row each are no thousand shards.
    """
    for file in find_row_files(raw, pattern):
        small = (raw / file).stat().st_size <= SMALL
        block = f"{PurePosixPath(file).parent}/" if small else file
        for index, value in scan_rows(raw, file, columns):
            yield RawRow(file, index, value, block)


def filled(
    row: Row,
    record: Any,
    finder: MediaFinder,
    fill: Callable[[Row, dict[str, Any], MediaFinder], None],
) -> Row:
    """``row`` after ``fill``, or with the rejection that this ended in; a record is an object."""
    try:
        if isinstance(record, Rejection):
            raise record
        if not isinstance(record, dict):
            raise Rejection("bad_row", f"{brief(record)}, not an object")
        fill(row, record, finder)
    except Rejection as rejection:
        row.rejection = rejection
    except RecursionError:
        row.rejection = Rejection("bad_row", "nested too deeply")
    return row


def image_of(record: dict[str, Any], keys: Sequence[str]) -> Any:
    """A record's image: the one embedded in its ``image``, else the first name in ``keys``."""
    value = record.get("image")
    if isinstance(value, str) and place_of(value):
        return value
    return first_of(record, keys)


def first_of(record: dict[str, Any], keys: Sequence[str]) -> Any:
    """The value of the first of ``keys`` that the record has one for, else None."""
    return next((record[key] for key in keys if record.get(key) is not None), None)
