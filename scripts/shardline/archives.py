"""Unpacking archives from outside: nothing may land beyond the archive's own folder.

zip, tar, and tar compressed with gzip, bzip2, xz or zstd, whole or in parts, are read as a stream
in constant memory and stay where they are. Plain files and links to files of the same archive are
taken; devices, absolute names and names that lead elsewhere are errors. An archive that grows
beyond `Limits` is a bomb, whatever sizes it declares.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import zstandard

from shardline.archive_parts import Archive, Joined, group
from shardline.errors import ConfigError, DataError
from shardline.locks import is_archive, list_files

CHUNK = 1 << 20
FREE_BYTES = 64 << 20  # below this no ratio is a bomb: a page of zeros compresses 1000 to 1
LONGEST_LINK = 4096
LONGEST_NAME = 1 << 20
NAME_TYPES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
MAGIC = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: zstandard.ZstdDecompressor().stream_reader(
        file, read_across_frames=True
    ),
}
NAMED = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0"}
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    UnicodeDecodeError,
    gzip.BadGzipFile,
)


@dataclass(frozen=True)
class Limits:
    """How far an archive may grow.

    Attributes:
        ratio: unpacked bytes for each byte of the archive, above the first 64 MiB.
        members: files, folders and links in one archive.
    """

    ratio: float = 200
    members: int = 5_000_000


DEFAULT = Limits()


class Member(NamedTuple):
    """A file (``data``), or a link to another one (``link``), in an archive."""

    name: str
    data: IO[bytes] | None
    link: str = ""
    hard: bool = False


def limits_of(options: dict[str, Any]) -> Limits:
    """The limits in a source's options.

    Raises:
        ConfigError: ``extract_limits`` is not ``{ratio, members}`` with numbers above 0.
    """
    given = options.get("extract_limits", {})
    names = [field.name for field in fields(Limits)]
    if not isinstance(given, dict) or set(given) - set(names):
        raise ConfigError(f"source_options.extract_limits: allowed: {', '.join(names)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"source_options.extract_limits.{name}: {value!r}; above 0 allowed")
    return Limits(**given)


def extract_matching(folder: Path, patterns: Sequence[str], limits: Limits = DEFAULT) -> None:
    """Unpack the archives below ``folder`` that match, each beside itself.

    Raises:
        DataError: a pattern that matches nothing, a part that is missing, or an archive that is
            broken or unsafe.
    """
    files = list_files(folder)
    for pattern in patterns:
        if not any(is_archive(file, [pattern]) for file in files):
            raise DataError(f"extract: no file matches {pattern!r}")
    for archive in group(folder / file for file in files if is_archive(file, patterns)):
        extract(archive, limits)


def extract(archive: Archive, limits: Limits = DEFAULT) -> None:
    """Unpack a zip or tar archive into the folder it lies in.

    Files get plain permissions. A file that is there already must have the same content.

    Raises:
        DataError: no archive, a damaged one, too large a one, a device, a link or a name that
            leads elsewhere; the message names the part that was being read.
    """
    with ExitStack() as opened:
        joined = opened.enter_context(Joined(archive))
        where = archive.folder / archive.name
        try:
            _unpack(archive, joined, limits, opened)
        except DAMAGE as error:
            detail = _place(archive, joined, error)
            raise DataError(f"{where}: damaged or locked archive: {detail}") from None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                raise DataError(f"{where}: a name that cannot be written: {error}") from None
            if error.errno is None:  # bz2 has no error class of its own
                detail = _place(archive, joined, error)
                raise DataError(f"{where}: damaged or locked archive: {detail}") from None
            raise


def _place(archive: Archive, joined: Joined, error: Exception) -> str:
    """What is wrong, and with which part."""
    if len(archive.parts) == 1:
        return str(error) or type(error).__name__
    sizes = [part.stat().st_size for part in archive.parts[:-1]]
    for part, size in zip(archive.parts, sizes, strict=False):
        if size != max(sizes):
            return f"{error} ({part.name} has {size} bytes, other parts have {max(sizes)})"
    return f"{error} (while reading {joined.part.name})"


def _unpack(archive: Archive, joined: Joined, limits: Limits, opened: ExitStack) -> None:
    root = archive.folder.resolve()
    budget = max(FREE_BYTES, int(limits.ratio * archive.bytes))
    links: list[tuple[PurePosixPath, str]] = []
    for count, member in enumerate(_members(archive, joined, 10 * budget, opened), start=1):
        if count > limits.members:
            raise DataError(
                f"{archive.name}: more than {limits.members:,} members; if that is meant, raise "
                "source_options.extract_limits.members"
            )
        path = _safe(archive, member.name)
        if member.data is not None:
            budget -= _write(archive, root / path, member.data, budget)
        elif member.link and member.hard:
            _link_hard(archive, root / path, root / _safe(archive, member.link))
        elif member.link:
            links.append((path, member.link))
    for path, target in links:
        _link(archive, root, path, target)


class _Header(tarfile.TarInfo):
    """A tar header that does not take gigabytes of memory for a name."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in NAME_TYPES and self.size > LONGEST_NAME:
            raise tarfile.ReadError(f"a name or attribute of {self.size:,} bytes")
        return super()._proc_member(archive)


class _Metered:
    """A stream that ends in an error after ``most`` bytes."""

    def __init__(self, archive: Archive, stream: IO[bytes], most: int) -> None:
        self._archive, self._stream, self._left = archive, stream, most

    def read(self, size: int) -> bytes:
        """Read on."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _bomb(self._archive, "its headers")
        return data


def _members(archive: Archive, joined: Joined, most: int, opened: ExitStack) -> Iterator[Member]:
    """Yield the members; a compressed stream is read to its end, where its checksum is."""
    file = opened.enter_context(io.BufferedReader(joined, CHUNK))
    head = file.peek(262)[:262]
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip_members(opened.enter_context(zipfile.ZipFile(file)))
        return
    reader = next((MAGIC[magic] for magic in MAGIC if head.startswith(magic)), None)
    for ending, magic in NAMED.items():
        if archive.name.lower().endswith(ending) and not head.startswith(magic):
            raise DataError(
                f"{archive.parts[0]} does not begin as {ending} does: "
                f"{head[:4].hex() or 'it is empty'} in place of {magic.hex()}"
            )
    if reader is None and head[257:262] != b"ustar":
        raise DataError(f"{archive.parts[0]} is neither a zip nor a tar archive")
    stream = _Metered(archive, opened.enter_context(reader(file)) if reader else file, most)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as content:
        while (entry := content.next()) is not None:
            content.members.clear()  # it would keep every member
            if entry.isreg():
                yield Member(entry.name, content.extractfile(entry))
            elif entry.issym() or entry.islnk():
                yield Member(entry.name, None, entry.linkname, entry.islnk())
            elif entry.isdir():
                yield Member(entry.name, None)
            else:
                raise DataError(f"{archive.name}: {entry.name!r} is a device")
    while stream.read(CHUNK):
        pass


def _zip_members(content: zipfile.ZipFile) -> Iterator[Member]:
    for entry in content.infolist():
        if entry.is_dir():
            yield Member(entry.filename, None)
            continue
        with content.open(entry) as data:
            if stat.S_ISLNK(entry.external_attr >> 16):
                target = data.read(LONGEST_LINK)
                yield Member(entry.filename, None, target.decode("utf-8", "surrogateescape"))
            else:
                yield Member(entry.filename, data)


def _write(archive: Archive, target: Path, data: IO[bytes], budget: int) -> int:
    """Write a member, at most ``budget`` bytes, and return its size."""
    size = 0
    with _new_file(archive, target) as file:
        while chunk := data.read(CHUNK):
            size += len(chunk)
            if size > budget:
                raise _bomb(archive, repr(target.name))
            if file.readable():
                if file.read(len(chunk)) != chunk:
                    raise DataError(f"{archive.name}: would overwrite {target}")
            else:
                file.write(chunk)
        if file.readable() and file.read(1):
            raise DataError(f"{archive.name}: would overwrite {target}")
    return size


def _bomb(archive: Archive, where: str) -> DataError:
    return DataError(
        f"{archive.name}: unpacks to far more than its {archive.bytes:,} bytes (at {where}); if "
        "that is meant, raise source_options.extract_limits.ratio"
    )


def _new_file(archive: Archive, target: Path) -> IO[bytes]:
    """Open a file for writing, or one that is there for reading."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return open(target, "xb")
        except FileExistsError:
            return open(target, "rb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{archive.name}: would overwrite {target}") from None


def _link_hard(archive: Archive, target: Path, to: Path) -> None:
    if not to.is_file() or to.is_symlink():
        raise DataError(f"{archive.name}: {target.name!r} is a link to {to.name!r}, which is not "
                        "a file before it in the archive")  # fmt: skip
    with open(to, "rb") as data:
        _write(archive, target, data, to.stat().st_size)


def _link(archive: Archive, root: Path, path: PurePosixPath, target: str) -> None:
    """Make a symbolic link, after all files, so that nothing is written through it."""
    link = root / path
    if _leads_out(root, link.parent) or _leads_out(root, link.parent / target):
        raise DataError(f"{archive.name}: {str(path)!r} is a link out of its folder: {target!r}")
    if not os.path.exists(link.parent / target):
        raise DataError(f"{archive.name}: {str(path)!r} is a link to nothing: {target!r}")
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(link):
        raise DataError(f"{archive.name}: would overwrite {link}")
    link.symlink_to(target)


def _leads_out(root: Path, path: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(root)


def _safe(archive: Archive, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or re.match("[A-Za-z]:", name):
        raise DataError(f"{archive.name}: {name!r} would be written outside its folder")
    return path
