"""Media inside parquet files: a medium's path may name a value of a row instead of a file.

``data/train-0.parquet#12/image.png`` is what column ``image`` holds in row 12, counted from 0, of
that file; ``...#12/images/1.jpg`` is the second of a list. The ending says what the bytes are. The
column is percent-encoded, so that it has no slash. Whoever reads the bytes of a medium does it with
`read_medium`, and asks `file_of` which file of the raw data, and so of the lock, they lie in.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import threading
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from shardline.errors import DataError

ENDING = ".parquet"
PATH = re.compile(rf"(.+{re.escape(ENDING)})#(\d+)/([^/]+?)(?:/(\d+))?\.[a-z0-9]+", re.DOTALL)
SIGNATURES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)
BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
BROKEN = (OSError, ValueError, NotImplementedError, RuntimeError)  # what Arrow raises
READ_BUFFER = 1 << 20  # bytes
ROWS_AT_ONCE = 8  # values decoded together; the parquet page around them is in memory as a whole
OPEN_COLUMNS = 4

_reading = threading.Lock()


class Place(NamedTuple):
    """Where an embedded medium lies; ``item`` counts in a list."""

    file: str
    row: int
    column: str
    item: int | None


def place_of(path: str) -> Place | None:
    """The place that a medium's path names, or None for a file of its own."""
    if not (match := PATH.fullmatch(path)):
        return None
    file, row, column, item = match.groups()
    return Place(file, int(row), unquote(column), None if item is None else int(item))


def file_of(path: str) -> str:
    """The file of the raw data that holds a medium: the parquet file, or its own."""
    place = place_of(path)
    return place.file if place else path


def path_of(place: Place, data: bytes) -> str:
    """The path of an embedded medium with these bytes."""
    item = "" if place.item is None else f"/{place.item}"
    column = quote(place.column, safe="")
    return f"{place.file}#{place.row}/{column}{item}.{image_extension(data)}"


def image_extension(data: bytes) -> str:
    """The usual ending of an image file with these bytes; ``bin`` for what is none we know."""
    for signature, extension in SIGNATURES:
        if data.startswith(signature):
            return extension
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return BRANDS.get(data[8:12], "bin") if data[4:8] == b"ftyp" else "bin"


def read_medium(path: Path | str) -> bytes:
    """The bytes of a medium below a raw folder, embedded or a file of its own.

    Raises:
        OSError: as `Path.read_bytes`; `FileNotFoundError` also for a row or value that is not
            there.
        DataError: the parquet file around it is broken.
    """
    if not (place := place_of(str(path))):
        return Path(path).read_bytes()
    state = os.stat(place.file)
    # With the process: a child that was forked must not read through its parent's open file.
    key = (os.getpid(), state.st_ino, state.st_size, state.st_mtime_ns)
    with _reading:
        try:
            value = _open(place.file, place.column, key).value(place.row)
        except LookupError:
            value = None
        except (*BROKEN, StopIteration) as error:  # the latter: fewer rows than the file states
            raise DataError(f"{place.file}: row {place.row} cannot be read: {error}") from None
    if place.item is not None:
        items = value if isinstance(value, list) else []
        value = items[place.item] if place.item < len(items) else None
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise FileNotFoundError(errno.ENOENT, "no such value in the parquet file", str(path))
    return data


@functools.lru_cache(maxsize=OPEN_COLUMNS)
def _open(file: str, column: str, key: tuple[int, ...]) -> _Column:
    return _Column(file, column)


class _Column:
    """Reads one column of a parquet file, fast where rows are asked for in their order."""

    def __init__(self, file: str, column: str) -> None:
        import pyarrow.parquet as pq

        self.column = column
        self.file = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER)
        groups = range(self.file.metadata.num_row_groups)
        sizes = (self.file.metadata.row_group(group).num_rows for group in groups)
        self.starts = list(accumulate(sizes, initial=0))
        self.latest: tuple[int, Any] = (-1, None)
        self._forget()

    def value(self, row: int) -> Any:
        """The value of a row, as plain Python data.

        Raises:
            LookupError: there is no such row or column.
        """
        if row == self.latest[0]:
            return self.latest[1]
        if row >= self.starts[-1]:
            raise IndexError(row)
        group = bisect_right(self.starts, row) - 1
        if group != self.group or row < self.first:
            self._forget()
            self.batches = self.file.iter_batches(
                ROWS_AT_ONCE, row_groups=[group], columns=[self.column], use_threads=False
            )
            self.group, self.end = group, self.starts[group]
        try:
            while row >= self.end:
                self.batch = next(self.batches)
                self.first, self.end = self.end, self.end + self.batch.num_rows
            value = self.batch.column(self.column)[row - self.first].as_py()
        except Exception:
            self._forget()
            raise
        if row + 1 == self.starts[group + 1]:
            self._forget()  # the group's page may be large
        self.latest = (row, value)
        return value

    def _forget(self) -> None:
        """Begin a row group anew at the next value."""
        self.group = -1
        self.first = self.end = 0
        self.batch: Any = None
        self.batches: Any = iter(())
