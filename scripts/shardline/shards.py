"""Plain WebDataset tars with the same bytes on every run.

A sample is a key without dots and its members ``<key>.<suffix>``, next to each other in the tar.
Headers are POSIX ustar with fixed time, owner and mode, one 512-byte block each, so that a
member's data offset is known while writing and random access needs no tar reader.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from shardline.errors import DataError
from shardline.files import atomic_file

MODE = 0o444
END = bytes(2 * tarfile.BLOCKSIZE)
NAME_LIMIT = 100  # a longer name would need ustar's prefix field, which some readers ignore


class Member(NamedTuple):
    """Where one file of a sample lies: tar member name, byte offset of its data, its size."""

    name: str
    offset: int
    size: int


def write_shard(
    path: Path, samples: Iterable[tuple[str, list[tuple[str, bytes]]]]
) -> list[list[Member]]:
    """Write ``(key, [(suffix, data), ...])`` samples to a tar, atomically and in the order given.

    Members keep the order of their list; ``samples`` may be a generator: one sample is in memory
    at a time. No samples make a valid empty tar.

    Returns:
        For each sample its members, named as in the tar (``<key>.<suffix>``).

    Raises:
        DataError: a key with a dot, a slash or no text, a key or member twice, a name too long.
    """
    index: list[list[Member]] = []
    keys: set[str] = set()
    with (
        atomic_file(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, members in samples:
            if not key or "." in key or "/" in key or key in keys:
                raise DataError(f"{path}: {key!r} cannot be a key: empty, dotted or there already")
            keys.add(key)
            entries: list[Member] = []
            for suffix, data in members:
                header = _header(path, f"{key}.{suffix}", len(data))
                if any(entry.name == header.name for entry in entries):
                    raise DataError(f"{path}: sample {key!r} has two members {suffix!r}")
                entries.append(Member(header.name, tar.offset + tarfile.BLOCKSIZE, len(data)))
                tar.addfile(header, io.BytesIO(data))
            index.append(entries)
    return index


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield ``(key, {suffix: data})`` of each sample of a tar, in order.

    Raises:
        DataError: there is no such tar, it is damaged, or a member's name has no suffix.
    """
    key, members = "", {}
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for header in tar:
                name, dot, suffix = header.name.partition(".")
                if not dot or not header.isreg():
                    raise DataError(f"{path}: {header.name!r} is not a member of a sample")
                if name != key:
                    if members:
                        yield key, members
                    key, members = name, {}
                members[suffix] = tar.extractfile(header).read()
            file.seek(tar.offset)
            if file.read(len(END)) != END:  # tarfile takes a cut at a header for the end
                raise DataError(f"{path}: not a whole tar: cut off at byte {tar.offset}")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: not a whole tar: {error}") from None
    if members:
        yield key, members


def _header(path: Path, name: str, size: int) -> tarfile.TarInfo:
    """A member's header that depends on nothing but its name and size."""
    if len(name.encode()) > NAME_LIMIT:
        raise DataError(f"{path}: the member name {name!r} is longer than {NAME_LIMIT} bytes")
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = MODE
    return header
