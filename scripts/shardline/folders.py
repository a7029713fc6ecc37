"""Putting a finished folder in its place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path


def source_folder(source: str) -> Path:
    """The folder that a source ``folder:/path`` names, absolute or from the project's root."""
    return Path(source.removeprefix("folder:").removeprefix("//")).expanduser()


def unfinished(raw: Path, key: str) -> Path:
    """Where a folder grows until it is whole: a hidden neighbour of ``raw``.

    One with the same ``key`` (a short word that names the content) is kept, so that its maker can
    continue it; others, from a maker that was killed and then given other options, are removed.
    """
    folder = raw.with_name(f".{raw.name}.{key}.unfinished")
    for other in raw.parent.glob(f".{raw.name}.*.unfinished"):
        if other != folder and other.name.count(".") == folder.name.count("."):
            remove(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove every file below ``folder`` but those named, and the folders that are empty then."""
    kept = set(names)
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(parent, name)
            if file.relative_to(folder).as_posix() not in kept:
                file.unlink()
        if parent != str(folder) and not os.listdir(parent):
            os.rmdir(parent)


def install(folder: Path, raw: Path) -> None:
    """Rename ``folder`` to ``raw``, in the place of what is there."""
    remove(raw)
    os.replace(folder, raw)


def link(target: Path, raw: Path) -> None:
    """Make ``raw`` a link to the folder ``target``, in the place of what is there."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    temporary = raw.with_name(f".{raw.name}.link")
    remove(temporary)
    temporary.symlink_to(target.resolve())
    install(temporary, raw)


def remove(path: Path) -> None:
    """Remove a folder, or a link without what it leads to; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
