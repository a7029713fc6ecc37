"""Reading the rows of parquet files; images embedded in them become the paths of media."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardline.embedded import BROKEN, ENDING, READ_BUFFER, Place, path_of
from shardline.errors import DataError
from shardline.rows import Rejection

ROWS_AT_ONCE = 64  # rows decoded together; a page of a column is in memory as a whole
EMBEDDED = {"bytes", "path"}  # how the `datasets` library writes an image, either may be null


def read_parquet(
    raw: Path,
    file: str,
    required: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
    as_bytes: Sequence[str] = (),
) -> Iterator[tuple[int, dict[str, Any] | Rejection]]:
    """Yield index and record of each row of a parquet file, in order.

    Embedded bytes, also ``{"bytes", "path"}`` pairs and lists of them, are replaced by the path
    that `embedded.read_medium` reads; a pair without bytes is the path it has. A row that is
    damaged, or has text that is not UTF-8, is a rejection; the others are read.

    Args:
        raw: the raw folder.
        file: the parquet file, relative to it.
        required: columns of the records.
        wanted: more columns, those that there are; None: all.
        as_bytes: columns of which plain bytes are left as they are.

    Raises:
        DataError: it is no parquet file, is not called one, or lacks a required column.
    """
    if not file.endswith(ENDING):
        raise DataError(f"{raw / file}: a parquet file has to be called *{ENDING}")
    try:
        source = pq.ParquetFile(raw / file, pre_buffer=False, buffer_size=READ_BUFFER)
        present = source.schema_arrow.names
    except BROKEN as error:
        raise DataError(f"{raw / file} is not a parquet file: {error}") from None
    if missing := [name for name in required if present.count(name) != 1]:
        raise DataError(
            f"{raw / file} has not one column {', '.join(missing)}; it has: {', '.join(present)}"
        )
    others = (name for name in (present if wanted is None else wanted) if present.count(name) == 1)
    columns = list(dict.fromkeys([*required, *others]))
    with source:
        index = 0
        for group in range(source.metadata.num_row_groups):
            end = index + source.metadata.row_group(group).num_rows
            problem = "it has fewer rows than it says"
            try:
                for batch in source.iter_batches(
                    ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False
                ):
                    for row in range(batch.num_rows):
                        yield index, _record(batch, row, columns, as_bytes, file, index)
                        index += 1
            except BROKEN as error:
                problem = str(error)
            for row in range(index, end):
                yield row, Rejection("damaged_row", f"row group {group}: {problem}")
            index = end


def _record(
    batch: pa.RecordBatch,
    row: int,
    columns: Sequence[str],
    as_bytes: Sequence[str],
    file: str,
    index: int,
) -> dict[str, Any] | Rejection:
    record = {}
    for name in columns:
        try:
            value = batch.column(name)[row].as_py()
        except UnicodeDecodeError as error:
            return Rejection("bad_encoding", f"column {name!r}: byte {error.start}: not UTF-8")
        except (ValueError, OverflowError) as error:
            return Rejection("bad_row", f"column {name!r}: {error}")
        if name not in as_bytes or not isinstance(value, bytes):
            value = _with_paths(value, Place(file, index, name, None))
        record[name] = value
    return record


def _with_paths(value: Any, place: Place) -> Any:
    """A value with embedded files replaced by their paths."""
    if isinstance(value, bytes):
        return path_of(place, value)
    if isinstance(value, dict) and value.keys() == EMBEDDED:
        data = value["bytes"]
        return path_of(place, data) if isinstance(data, bytes) else value["path"]
    if isinstance(value, list) and place.item is None:
        return [_with_paths(item, place._replace(item=at)) for at, item in enumerate(value)]
    return value
