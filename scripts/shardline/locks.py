"""Locks: which files a dataset or model consists of, and the hash of each.

``<name>.files.tsv`` has a line ``path<tab>bytes<tab>sha256`` a file, sorted by path;
``<name>.lock.json`` has the totals, the source and the hash of that list. Everything computed from
raw data is a function of its lock. Archives that were unpacked are in the lock itself, under
``archives``: no stage reads them, so they may go.

``.<name>.known.json`` beside them remembers the last lock and the files' times: what it spares is
hashing files that have not changed, and what it finds is a source that has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from shardline.errors import DataError
from shardline.files import atomic_file, read_json, sha256_bytes, sha256_file, write_json

DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")  # looking at a folder leaves these behind


class LockedFile(NamedTuple):
    """Size in bytes and hex sha256 of a locked file."""

    bytes: int
    sha256: str


class Known(NamedTuple):
    """What a source gave the last time it was locked.

    Attributes:
        source: ``{"source", "options"}`` as the config had them.
        revision: what the source called that state of the data.
        files: path: [bytes, modification time in nanoseconds, sha256].
    """

    source: dict[str, Any]
    revision: str
    files: dict[str, list[Any]]


def write_lock(
    raw: Path,
    lock: Path,
    files: Path,
    *,
    name: str,
    kind: str,
    source: str,
    revision: str,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Hash every file below ``raw`` and write the list and, last, the lock.

    Files of the size and time that they had at the last lock are not hashed again.

    Args:
        raw: the folder of the data; links inside it are followed.
        lock: where the lock goes.
        files: where the list goes.
        name: the dataset's or model's name.
        kind: ``dataset`` or ``model``.
        source: the source string of the config.
        revision: what the source calls this state of the data.
        options: the source's options; files that match ``extract`` are archives.

    Returns:
        The lock.

    Raises:
        DataError: no files, or one whose name or kind cannot be locked.
    """
    options = options or {}
    of, extract = {"source": source, "options": options}, options.get("extract", ())
    known = read_known(raw)
    before = known.files if known and known.source == of else {}
    seen: dict[str, list[Any]] = {}
    lines, archives, total = [], [], 0
    found = dict(walk(raw))
    gone = {path for path in before if path not in found and is_archive(path, extract)}
    for path in sorted({*found, *(gone if revision else ())}):
        old = before.get(path, [])
        size, time = old[:2] if path in gone else (found[path], (raw / path).stat().st_mtime_ns)
        sha256 = old[2] if old[:2] == [size, time] else sha256_file(raw / path)
        seen[path] = [size, time, sha256]
        if is_archive(path, extract):
            archives.append({"path": path, "bytes": size, "sha256": sha256})
        else:
            lines.append(f"{path}\t{size}\t{sha256}\n")
            total += size
    if not lines:
        raise DataError(f"{name}: {source} has no files")
    text = "".join(lines).encode()
    with atomic_file(files) as file:
        file.write(text)
    content = {
        "name": name,
        "kind": kind,
        "source": source,
        "options": options,
        "revision": revision,
        "files": len(lines),
        "bytes": total,
        "sha256": sha256_bytes(text),
        **({"archives": archives} if archives else {}),
    }
    write_json(known_of(raw), {"source": of, "revision": revision, "files": seen})
    write_json(lock, content)
    return content


def is_archive(path: str, patterns: Sequence[str]) -> bool:
    """Whether a file matches one of ``extract``'s patterns; ``*`` stands for folders too."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def known_of(raw: Path) -> Path:
    """Where the last lock of ``raw`` is remembered."""
    return raw.with_name(f".{raw.name}.known.json")


def read_known(raw: Path) -> Known | None:
    """What is remembered of ``raw``; None if it was never locked, or that cannot be read."""
    try:
        return Known(**read_json(known_of(raw)))
    except (DataError, TypeError):
        return None


def files_of(lock: Path) -> Path:
    """The file list that belongs to a lock."""
    return lock.with_name(lock.name.removesuffix(".lock.json") + ".files.tsv")


def read_files(lock: Path) -> dict[str, LockedFile]:
    """The files that a lock fixes, by path.

    Raises:
        DataError: lock or list are missing, or the list is not the one that was locked.
    """
    expected = read_json(lock)["sha256"]
    listing = files_of(lock)
    if not listing.is_file():
        raise DataError(f"{listing}: no such file; fetch the data again")
    text = listing.read_bytes()
    if sha256_bytes(text) != expected:
        raise DataError(f"{listing} is not the list that {lock} names; fetch the data again")
    rows = (line.split("\t") for line in text.decode().splitlines())
    return {path: LockedFile(int(size), sha256) for path, size, sha256 in rows}


def read_archives(lock: Path) -> dict[str, LockedFile]:
    """The unpacked archives that a lock names, by path; they may be gone."""
    rows = read_json(lock).get("archives", [])
    return {row["path"]: LockedFile(row["bytes"], row["sha256"]) for row in rows}


def verify(lock: Path, raw: Path) -> list[str]:
    """What differs between a lock and the disk, one sentence a file; nothing if all is well."""
    locked, archives = read_files(lock), read_archives(lock)
    present = {path: entry for path, entry in archives.items() if (raw / path).is_file()}
    problems = []
    for path, entry in {**locked, **present}.items():
        file = raw / path
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif (size := file.stat().st_size) != entry.bytes:
            problems.append(f"{file}: {size} bytes, locked with {entry.bytes}")
        elif sha256_file(file) != entry.sha256:
            problems.append(f"{file}: other content than locked")
    return problems + [f"{raw / path}: not in the lock" for path in unlisted(lock, raw)]


def unlisted(lock: Path, raw: Path) -> list[str]:
    """Files below ``raw`` that its lock does not name."""
    if not raw.is_dir():
        return []
    return sorted(set(list_files(raw)) - set(read_files(lock)) - set(read_archives(lock)))


def check(raw: Path, path: str, sha256: str, locked: dict[str, LockedFile]) -> None:
    """See that a file that was just read is the one that was locked; ``sha256`` "": it is absent.

    Raises:
        DataError: it is new, changed or gone since.
    """
    if sha256 != (locked[path].sha256 if path in locked else ""):
        raise DataError(
            f"{raw / path} is not what was locked: new, changed or gone since; put it back, or "
            "lock the data again: `snakemake --forcerun fetch_dataset`"
        )


def list_files(raw: Path) -> list[str]:
    """Paths of all files below ``raw``, relative and sorted; links are followed, but in no circle.

    Raises:
        DataError: a name that a line of text cannot hold, a dead link, or neither file nor folder.
    """
    return sorted(path for path, _ in walk(raw))


def walk(raw: Path) -> Iterator[tuple[str, int]]:
    """Yield relative path and size of every file below ``raw``, in no order; see `list_files`."""
    return _walk(raw, "", ())


def _walk(raw: Path, inside: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    real = os.path.realpath(raw / inside)
    if real in above:
        return
    with os.scandir(raw / inside) as entries:
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name in DROPPINGS or entry.name.startswith("._"):
                continue
            if not path.isprintable():
                raise DataError(f"{raw}: rename {path!r}: control characters cannot be locked")
            try:
                status = entry.stat()
            except FileNotFoundError:
                raise DataError(f"{raw / path} is a link to nothing") from None
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(raw, path, (*above, real))
            elif stat.S_ISREG(status.st_mode):
                yield path, status.st_size
            else:
                raise DataError(f"{raw / path} is neither a file nor a folder")
