"""Conversion: a format's rows become canonical samples with audited media, or rejects.

Rows are taken in blocks of ``shard_rows`` of one annotation file (or of many small ones, see
`rows.Row`); a block's samples are one shard, so that a changed row changes its own shard only.
Everything that is not used is in the rejects with its reason, and the counts must add up.

A block goes through three steps in chunks: rows are parsed, for the paths of their media; these are
audited, a few chunks together; rows are checked and made text. The first and the last step of a
chunk are one worker's, which keeps the rows in between.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from shardline import locks, registry
from shardline.boxes import FRAMES, parse_frame
from shardline.conversion_counts import Counts
from shardline.errors import ConfigError, DataError
from shardline.files import (
    atomic_file,
    canonical_json,
    compressed,
    file_entry,
    read_json,
    sha256_file,
    write_json,
    write_parts,
)
from shardline.media import Auditor, Audits
from shardline.parallel import Workers
from shardline.row_checks import Checker, json_of
from shardline.row_files import MAX_DEPTH
from shardline.rows import RawRow, Rejection, Row
from shardline.versions import package_versions

CHUNK_ROWS = 256
CHUNK_BYTES = 1 << 20  # of text; a chunk has one row at least
AUDITED_CHUNKS = 8  # together: more files keep workers busy, fewer are less in memory

_parsed: deque[list[tuple[Row, bytes]]] = deque()  # what waits in this process for the third step


class Job(NamedTuple):
    """What a worker has to know of the dataset; ``format_options`` is JSON."""

    dataset: str
    format: str
    plugins: tuple[str, ...]
    format_options: str
    raw: str
    frame: str


class Chunk(NamedTuple):
    """Rows that follow each other in the block ``number``; ``name`` is the first one's place."""

    number: int
    name: str
    rows: list[RawRow] | list[Row] | list[tuple[Any, ...]]


class Parsed(NamedTuple):
    """The paths of the images and videos of the chunk of this ``name`` in the block ``number``."""

    number: int
    name: str
    images: list[str]
    videos: list[str]


class Checked(NamedTuple):
    """What became of a chunk: its samples as compressed lines, its rejects as lines."""

    number: int
    samples: bytes
    rejects: str
    counts: Counts


def convert(
    *,
    dataset: str,
    options: dict[str, Any],
    raw: Path,
    lock: Path,
    manifest: Path,
    rejects: Path,
    threads: int,
) -> dict[str, Any]:
    """Convert a locked dataset; write shards beside ``manifest``, the rejects, then the manifest.

    Args:
        dataset: its name; sample ids are ``<dataset>:<annotation file>#<index>``.
        options: ``format``, ``frame``, ``shard_rows``, ``max_reject_share``, ``max_pixels``,
            ``format_options`` and ``plugins``.
        raw: the data.
        lock: its lock.
        manifest: where the manifest goes.
        rejects: where the rejects go.
        threads: processes that parse, audit and check.

    Returns:
        The manifest.

    Raises:
        ConfigError: a frame that is unknown or not the format's.
        DataError: no annotations, or data that changed since it was locked.
        GateError: more than ``max_reject_share`` of rows or elements were rejected.
    """
    plugins = tuple(options.get("plugins", []))
    format_module = registry.load("formats", options["format"], plugins)
    frame = _frame(dataset, options, format_module)
    format_options = options.get("format_options", {})
    job = Job(dataset, options["format"], plugins, canonical_json(format_options), str(raw), frame)
    manifest.unlink(missing_ok=True)
    folder = manifest.parent
    locked = locks.read_files(lock)
    counts = Counts()
    shards = []
    _parser.cache_clear()  # it remembers which folders there were
    _parsed.clear()
    with Workers(threads) as workers, atomic_file(rejects, "w") as rejects_file:
        auditor = Auditor(raw, locked, options["max_pixels"], workers)
        chunks = _as_locked(_chunks(job, options["shard_rows"]), raw, locked)
        parsed = workers.stream(partial(_parse, job), chunks, lambda chunk: chunk.name)
        audited = _audit(auditor, parsed)
        checked = workers.stream(partial(_check, job), audited, lambda pair: pair[0].name)
        for number, parts in groupby(checked, key=lambda part: part.number):
            path = folder / f"samples-{number:05d}.jsonl.zst"
            shard = Counts()
            write_parts(path, _samples(parts, shard, rejects_file))
            shards.append({**file_entry(path), "samples": shard.rows_kept, "rows": shard.rows_in})
            counts.add(shard)
            print(f"{dataset}: {counts.rows_in} rows, {counts.rows_kept} kept", file=sys.stderr)
    for path in folder.glob("samples-*.jsonl.zst"):
        if path.name not in {shard["name"] for shard in shards}:
            path.unlink()
    counts.check(dataset)
    counts.gate(dataset, options["max_reject_share"])
    content = {
        "stage": "convert",
        "dataset": dataset,
        "files_sha256": read_json(lock)["sha256"],
        "format": options["format"],
        "frame": options["frame"],
        **counts.to_json(),
        "shards": shards,
        "versions": package_versions("av", "orjson", "pillow", "pillow-heif", "zstandard"),
    }
    write_json(manifest, content)
    return content


def _chunks(job: Job, shard_rows: int) -> Iterator[Chunk]:
    """The rows of the dataset in blocks of ``shard_rows``, and these in chunks."""
    format_module = registry.load("formats", job.format, job.plugins)
    options = json.loads(job.format_options)
    if hasattr(format_module, "scan"):
        _parser(job)  # for what it says of the options
        rows = format_module.scan(Path(job.raw), options)
    else:
        rows = format_module.read(Path(job.raw), options)
    number = -1
    for _, together in groupby(rows, key=lambda row: row.block or row.file):
        for first in together:
            number += 1
            for part in _parts(chain([first], islice(together, shard_rows - 1))):
                yield Chunk(number, f"{part[0].file}#{part[0].index}", part)


def _parts(rows: Iterable[RawRow | Row]) -> Iterator[list[RawRow] | list[Row]]:
    """Lists of at most `CHUNK_ROWS` rows, closed by the one that makes them `CHUNK_BYTES`."""
    part, size = [], 0
    for row in rows:
        try:
            if isinstance(row, Row):
                elements = [list(vars(element).values()) for element in row.elements]
                size += _weight([row.messages, row.meta, elements])
            else:
                value = row.value
                size += len(value) if isinstance(value, bytes) else _weight(value)
        except RecursionError:
            rejection = Rejection("bad_row", "nested too deeply")
            row = (  # noqa: PLW2901
                Row(file=row.file, index=row.index, part=row.part, rejection=rejection)
                if isinstance(row, Row)
                else row._replace(value=rejection)
            )
        part.append(row)
        if len(part) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _weight(value: Any, depth: int = MAX_DEPTH) -> int:
    """About how many characters a value has.

    Raises:
        RecursionError: it is nested deeper than `MAX_DEPTH`, and so could not reach a worker.
    """
    if isinstance(value, str | bytes):
        return len(value)
    if not isinstance(value, dict | list | tuple):
        return 1
    if not depth:
        raise RecursionError
    items = value.values() if isinstance(value, dict) else value
    return sum(_weight(item, depth - 1) for item in items)


def _as_locked(
    chunks: Iterable[Chunk], raw: Path, locked: dict[str, locks.LockedFile]
) -> Iterator[Chunk]:
    """The chunks; the annotation files that they come from are hashed meanwhile.

    Raises:
        DataError: a file is not as it was locked; at its last chunk, or where reading it fails.
    """
    last_file = ""
    hashed: list[tuple[str, Future[str]]] = []

    def check() -> None:
        while hashed:
            file, digest = hashed.pop()
            locks.check(raw, file, digest.result(), locked)

    with ThreadPoolExecutor(1) as hashing:
        try:
            for chunk in chunks:
                for file in dict.fromkeys(row.file for row in chunk.rows):
                    if file != last_file:
                        check()
                        hashed.append((file, hashing.submit(sha256_file, raw / file)))
                        last_file = file
                # Plain tuples: named ones take three times as long to reach a worker.
                plain = isinstance(chunk.rows[0], RawRow)
                yield chunk._replace(rows=[tuple(row) for row in chunk.rows]) if plain else chunk
        except DataError:
            check()
            raise
        check()


@cache
def _parser(job: Job) -> Callable[[RawRow], Iterator[Row]]:
    format_module = registry.load("formats", job.format, job.plugins)
    return format_module.parser(Path(job.raw), json.loads(job.format_options))


def _parse(job: Job, chunk: Chunk) -> Parsed:
    """The first step; leaves the rows, each with its messages as JSON, in `_parsed`."""
    rows = chunk.rows
    if isinstance(rows[0], tuple):
        parse = _parser(job)
        rows = [row for values in rows for row in parse(RawRow._make(values))]
    paths: dict[str, dict[str, None]] = {"image": {}, "video": {}}
    parsed = []
    for row in rows:
        for medium in row.media:
            paths[medium.kind][medium.path] = None
        try:
            messages = json_of(row.messages)
        except Rejection as rejection:
            row.rejection, messages = row.rejection or rejection, b""
        row.messages = []
        parsed.append((row, messages))
    _parsed.append(parsed)
    return Parsed(chunk.number, chunk.name, list(paths["image"]), list(paths["video"]))


def _audit(auditor: Auditor, parsed: Iterator[Parsed]) -> Iterator[tuple[Parsed, Audits]]:
    """The second step: parsed chunks with the audits of their media."""
    while together := list(islice(parsed, AUDITED_CHUNKS)):
        auditor.audit(
            (path for part in together for path in part.images),
            (path for part in together for path in part.videos),
        )
        for part in together:
            images = {path: auditor.audits[path] for path in part.images}
            videos = {path: auditor.videos[path] for path in part.videos}
            yield part._replace(images=[], videos=[]), Audits(images, videos)


def _check(job: Job, audited: tuple[Parsed, Audits]) -> Checked:
    """The third step, of the chunk that waits longest for it in this process."""
    parsed, audits = audited
    checker = Checker(job.dataset, job.frame, audits)
    rows = _parsed.popleft()
    lines = [line for row, messages in rows if (line := checker.check(row, messages))]
    samples = compressed(b"".join(lines))
    return Checked(parsed.number, samples, "".join(checker.rejects), checker.counts)


def _samples(parts: Iterable[Checked], shard: Counts, rejects: IO[str]) -> Iterator[bytes]:
    """The samples of a shard; adds to its counts and to the rejects."""
    for part in parts:
        shard.add(part.counts)
        rejects.write(part.rejects)
        yield part.samples


def _frame(dataset: str, options: dict[str, Any], format_module: Any) -> str:
    """The declared frame, which must be one that the format can have."""
    frame = options["frame"]
    allowed = getattr(format_module, "FRAMES", None)
    if allowed == () and frame is None:
        return "unit_xyxy"
    if frame is None or (allowed is not None and frame not in allowed):
        raise ConfigError(
            f"datasets.{dataset}.frame: {frame!r} with format {options['format']}; declare "
            + (" or ".join(allowed or ["none"]) if allowed is not None else " or ".join(FRAMES))
        )
    parse_frame(frame)
    return frame
