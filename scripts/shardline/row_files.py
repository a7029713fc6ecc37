"""Annotation files of any length, one row at a time: JSON lines, JSON, CSV, parquet.

Memory is that of the longest row, which may have `MAX_ROW` bytes; a JSON array is not loaded as a
whole either. A row that cannot be read is a rejection in lines and CSV, where the next row can be
found again, and the end of a ``.json`` file, where it cannot.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO, Any

import orjson

from shardline import locks
from shardline.annotations import find_annotations, is_text
from shardline.errors import DataError
from shardline.rows import Rejection

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
NO_ROWS = ("dataset_info.json", "dataset_infos.json")  # what hubs and trainers say of the others
MAX_ROW = 16 << 20  # bytes of a line, characters of a value of an array
MAX_DEPTH = 100  # lists and objects inside each other
CHUNK = 1 << 20
DECODER = json.JSONDecoder()
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
SURROGATE_BYTES = re.compile(SURROGATE.pattern.encode())
UNFINISHED = ("", ".", "e", "E")  # what follows a value that may not be whole
SPACE = re.compile(r"[ \t\n\r]*")


def find_row_files(raw: Path, pattern: str | None) -> list[str]:
    """Files that ``pattern`` matches; without one, all of `SUFFIXES` in all folders.

    `NO_ROWS` are left out unless ``pattern`` names them.

    Returns:
        Paths relative to ``raw``, sorted.

    Raises:
        ConfigError: a pattern that leads outside ``raw``.
        DataError: there are none.
    """
    if pattern:
        return find_annotations(raw, [pattern])
    found = [
        file
        for file in locks.list_files(raw)
        if file.endswith(SUFFIXES) and PurePosixPath(file).name not in NO_ROWS
    ]
    return found or find_annotations(raw, [f"**/*{suffix}" for suffix in SUFFIXES])


def read_rows(
    raw: Path, file: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield index, counted from 0, and value or `Rejection` of each row.

    Blank lines are counted, but no rows. A ``.json`` file is an array of rows, or rows that follow
    each other.

    Args:
        raw: the raw folder.
        file: the file, relative to it; its ending says what it is (others are JSON lines).
        columns: those to read of a parquet file, as far as it has them; None: all.

    Raises:
        DataError: the file is not what its name says; the message names row and line.
    """
    for index, value in scan_rows(raw, file, columns):
        yield index, parse_value(index, value)


def scan_rows(
    raw: Path, file: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Any]]:
    """As `read_rows`, but of JSON lines the bytes, which `parse_value` makes values of."""
    suffix = Path(file).suffix
    if suffix == ".parquet":
        from shardline.parquet_rows import read_parquet

        yield from read_parquet(raw, file, [], columns)
    elif suffix == ".csv":
        yield from _read_csv(raw / file)
    elif suffix == ".json":
        yield from _read_json(raw / file)
    else:
        yield from _scan_lines(raw / file)


def parse_value(index: int, value: Any) -> Any:
    """What `read_rows` yields for what `scan_rows` does."""
    return _parse_line(value, index + 1) if isinstance(value, bytes) else value


def _scan_lines(path: Path) -> Iterator[tuple[int, bytes | Rejection]]:
    with open(path, "rb") as stream:
        for number in count(1):
            if not (line := stream.readline(MAX_ROW + 1)):
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) > MAX_ROW:
                yield number - 1, Rejection("row_too_long", f"line {number}: over {MAX_ROW} bytes")
            elif not line.isspace():
                yield number - 1, line
            while len(line) > CHUNK and not line.endswith(b"\n"):
                if not (line := stream.readline(CHUNK + 1)):
                    return


def _parse_line(line: bytes, number: int) -> Any:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_patiently(line, number)
    if _has_float(value):
        return _parse_patiently(line, number)
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return Rejection("malformed_json", f"line {number}: nested too deeply")
    return value


def _has_float(value: Any) -> bool:
    """Whether a field is a float: orjson makes one of an id that is a number beyond 64 bits."""
    if isinstance(value, dict):
        return float in map(type, value.values())
    return isinstance(value, list) and any(
        isinstance(item, dict) and _has_float(item) for item in value
    )


def _parse_patiently(line: bytes, number: int) -> Any:
    """As Python's parser does it, which takes NaN, and whose messages do not change."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Rejection("bad_encoding", f"line {number}, byte {error.start}: not UTF-8")
    except RecursionError:
        return Rejection("malformed_json", f"line {number}: nested too deeply")
    except json.JSONDecodeError as error:
        return Rejection("malformed_json", f"line {number}, column {error.colno}: {error.msg}")
    except ValueError as error:
        return Rejection("malformed_json", f"line {number}: {error}")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return Rejection("malformed_json", f"line {number}: nested too deeply")
    return _checked(value) if SURROGATE_BYTES.search(line) else value


def _depth(value: Any) -> int:
    """How many lists and objects are inside each other, at most."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def _checked(value: Any) -> Any:
    """``value``, unless an escape in it is half a character."""
    if is_text(value):
        return value
    return Rejection("bad_text", "half a surrogate pair, which is no character")


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(iter(partial(stream.readline, MAX_ROW), ""))
        for index in count():
            try:
                if (record := next(reader, None)) is None:
                    return
            except csv.Error as error:
                yield index, Rejection("malformed_csv", f"line {reader.line_num}: {error}")
                continue
            if None in record or None in record.values():
                detail = f"line {reader.line_num}: not as many cells as the header has"
                yield index, Rejection("malformed_csv", detail)
            elif not is_text(record):
                yield index, Rejection("bad_encoding", f"line {reader.line_num}: not UTF-8")
            else:
                yield index, {key: cell for key, cell in record.items() if cell}


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = _JsonReader(stream)
        rows = 0
        try:
            for value in reader.values():
                yield rows, value
                rows += 1
        except UnicodeDecodeError as error:
            problem = f"not {error.encoding}"
        except RecursionError:
            problem = "nested too deeply"
        except ValueError as error:
            problem = getattr(error, "msg", str(error))
        else:
            return
    raise DataError(f"{path} is not valid JSON: row {rows}, line {reader.line()}: {problem}")


class _JsonReader:
    """Parses the values of a JSON text piece by piece."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.text = ""  # what was read and is not yet forgotten
        self.at = 0  # the place in it
        self.lines = 1  # the line that it begins in

    def line(self) -> int:
        """The line of the present place, counted from 1."""
        return self.lines + self.text.count("\n", 0, self.at)

    def values(self) -> Iterator[Any]:
        """Yield the items of the array that the text is, or else its values one after the other.

        Raises:
            ValueError: it is not JSON.
        """
        if not (character := self._peek()):
            raise ValueError("the file is empty")
        if character != "[":
            while self._peek():
                yield self._value()
            return
        self.at += 1
        while self._peek() != "]":
            yield self._value()
            if (character := self._peek()) not in (",", "]"):
                raise ValueError("expecting ',' or ']'")
            if character == ",":
                self.at += 1
                if self._peek() == "]":
                    raise ValueError("a comma after the last row")
        self.at += 1
        if self._peek():
            raise ValueError("more after the end of the array; name a file of JSON lines .jsonl")

    def _more(self) -> bool:
        """Read on, at least as much as is not used up yet; False at the end."""
        new = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.lines = self.line()
        self.text = self.text[self.at :] + new
        self.at = 0
        return bool(new)

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            problem = None
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                problem, end = error, len(self.text)
            # What touches the end, or a number before a point, may go on in what is not read yet.
            if self.text[end : end + 1] not in UNFINISHED:
                break
            if end - self.at > MAX_ROW:
                raise ValueError(f"a row of more than {MAX_ROW} characters, or broken")
            rest = len(self.text) - end
            if not self._more():
                if problem:
                    raise problem
                end = len(self.text) - rest
                break
        escaped = SURROGATE.search(self.text, self.at, end)
        opened = self.text.count("[", self.at, end) + self.text.count("{", self.at, end)
        self.at = end
        if opened > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            return Rejection("malformed_json", "nested too deeply")
        return _checked(value) if escaped else value
