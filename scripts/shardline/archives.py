"""Unpacking archives from outside: nothing may land beyond the archive's own folder."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from shardline.errors import DataError


def extract_matching(folder: Path, patterns: Sequence[str]) -> None:
    """Unpack the archives below ``folder`` that match, each beside itself, and remove them.

    Raises:
        DataError: a pattern that matches nothing, or an archive that is broken or unsafe.
    """
    for pattern in patterns:
        archives = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not archives:
            raise DataError(f"extract: no file matches {pattern!r}")
        for archive in archives:
            extract(archive)
            archive.unlink()


def extract(archive: Path) -> None:
    """Unpack a zip or tar archive (also compressed) into the folder it lies in.

    Only plain files are taken, with plain permissions; existing files are not overwritten.

    Raises:
        DataError: no archive, a damaged one, a link, or a name that leads elsewhere.
    """
    try:
        for name, data in _members(archive):
            target = archive.parent / _safe(archive, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                shutil.copyfileobj(data, file)
    except FileExistsError as error:
        raise DataError(f"{archive.name}: would overwrite {error.filename}") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive.name}: damaged or locked archive: {error}") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and open data of each file inside."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                if not entry.is_dir():
                    with content.open(entry) as data:
                        yield entry.filename, data
        return
    if not tarfile.is_tarfile(archive):
        raise DataError(f"{archive.name} is neither a zip nor a tar archive")
    with tarfile.open(archive) as content:
        for entry in content:
            if entry.isreg():
                yield entry.name, content.extractfile(entry)
            elif not entry.isdir():
                raise DataError(f"{archive.name}: {entry.name!r} is a link or a device")


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        raise DataError(f"{archive.name}: {name!r} would be written outside its folder")
    return path
