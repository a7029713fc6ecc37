"""Folders of copied images, as other projects' scripts read them: replaced whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from shardline.embedded import read_medium
from shardline.errors import DataError
from shardline.files import sha256_bytes


def flat_names(paths: Iterable[str]) -> dict[str, str]:
    """The name of each image: its base name, or all of its path where others share that."""
    base = {path: PurePosixPath(path).name for path in sorted(set(paths))}
    same = Counter(base.values())
    return {path: name if same[name] == 1 else path for path, name in base.items()}


def copy_images(
    raw: Path, folder: Path, names: Mapping[str, str], known: Mapping[str, str]
) -> None:
    """Copy the images of ``names`` (path to name) from ``raw``; ``known`` has their sha256.

    Raises:
        DataError: an image changed since it was converted.
    """
    for path, name in names.items():
        try:
            data = read_medium(raw / path)
        except FileNotFoundError:
            data = b""
        if sha256_bytes(data) != known[path]:
            raise DataError(f"{raw / path} changed since it was converted; convert it again")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def check_own(folders: Iterable[Path], report: Path) -> None:
    """See that folders are free, or an earlier export's, which ``report`` beside them shows.

    Raises:
        DataError: one holds files and there is no report.
    """
    for folder in folders:
        if folder.exists() and any(folder.iterdir()) and not report.is_file():
            raise DataError(
                f"{folder} holds files, but not of an earlier export; choose another place"
            )


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder to fill that is gone afterwards, unless it was renamed."""
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def install(staging: Path, folder: Path) -> None:
    """Put a filled folder in the place of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
