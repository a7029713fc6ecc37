"""Locks: which files a dataset or model consists of, and the hash of each.

``<name>.files.tsv`` has a line ``path<tab>bytes<tab>sha256`` a file, sorted by path;
``<name>.lock.json`` has the totals, the source and the hash of that list. Everything computed from
raw data is a function of its lock.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shardline.errors import DataError
from shardline.files import atomic_file, read_json, sha256_bytes, sha256_file, write_json

DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")  # looking at a folder leaves these behind


class LockedFile(NamedTuple):
    """Size in bytes and hex sha256 of a locked file."""

    bytes: int
    sha256: str


def write_lock(
    raw: Path,
    lock: Path,
    files: Path,
    *,
    name: str,
    kind: str,
    source: str,
    revision: str,
) -> dict[str, Any]:
    """Hash every file below ``raw`` and write the list and, last, the lock.

    Args:
        raw: the folder of the data; links inside it are followed.
        lock: where the lock goes.
        files: where the list goes.
        name: the dataset's or model's name.
        kind: ``dataset`` or ``model``.
        source: the source string of the config.
        revision: what the source calls this state of the data.

    Returns:
        The lock.

    Raises:
        DataError: no files, or one whose name or kind cannot be locked.
    """
    lines, total = [], 0
    for path in list_files(raw):
        size = (raw / path).stat().st_size
        lines.append(f"{path}\t{size}\t{sha256_file(raw / path)}\n")
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
        "revision": revision,
        "files": len(lines),
        "bytes": total,
        "sha256": sha256_bytes(text),
    }
    write_json(lock, content)
    return content


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


def verify(lock: Path, raw: Path) -> list[str]:
    """What differs between a lock and the disk, one sentence a file; nothing if all is well."""
    locked = read_files(lock)
    problems = []
    for path, entry in locked.items():
        file = raw / path
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif (size := file.stat().st_size) != entry.bytes:
            problems.append(f"{file}: {size} bytes, locked with {entry.bytes}")
        elif sha256_file(file) != entry.sha256:
            problems.append(f"{file}: other content than locked")
    if raw.is_dir():
        present = set(list_files(raw))
        problems += [f"{raw / path}: not in the lock" for path in sorted(present - set(locked))]
    return problems


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
    return sorted(_walk(raw, "", ()))


def _walk(raw: Path, inside: str, above: tuple[str, ...]) -> Iterator[str]:
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
                mode = entry.stat().st_mode
            except FileNotFoundError:
                raise DataError(f"{raw / path} is a link to nothing") from None
            if stat.S_ISDIR(mode):
                yield from _walk(raw, path, (*above, real))
            elif stat.S_ISREG(mode):
                yield path
            else:
                raise DataError(f"{raw / path} is neither a file nor a folder")
