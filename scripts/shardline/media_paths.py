"""Finding the images and videos that rows of conversations name.

A name is looked for, as it stands, in the folders that the dataset's entry names, in that of the
annotation file and in the dataset's own, and in ``images`` or ``videos`` of each; with ``..`` in
it, in the first two only. If it is in none:

- Archives are often packed with the folders of their builder's disk around the data. So
  ``a/1.jpg`` is also found as ``mnt/builder/a/1.jpg`` in one of those folders (not the dataset's
  own), if there is one such file only.
- Rows often name their files from a folder above the data, or from ``/``. So ``/mnt/x/a/1.jpg`` is
  also found as ``x/a/1.jpg`` or ``a/1.jpg``, with the fewest folders left out, but never by
  leaving out a folder that is there, nor by the file's name alone.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any, Literal

from shardline.embedded import place_of
from shardline.errors import ConfigError
from shardline.rows import Rejection, brief
from shardline.samples import Medium

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
SUBFOLDERS = {"image": "images", "video": "videos"}
MAX_NAME = 255  # bytes, up to 4 a character, of a part of a path, as file systems have it
MAX_PATH = 1024
KEPT = 20_000  # names of media whose places are remembered: rows of one medium are often close
MAX_CANDIDATES = 32  # folders that end alike, beyond which none of them is taken


class MediaFinder:
    """Finds media below ``raw`` by the names that rows give."""

    def __init__(self, raw: Path, folders: Sequence[str] = (), prefix: str = "") -> None:
        """``folders``, relative to ``raw``, come first; ``prefix`` is left out of rows' paths.

        Raises:
            ConfigError: a folder that is not inside ``raw``, or not the right kind of value.
        """
        if not isinstance(folders, list | tuple):
            raise ConfigError(f"media_folders: {folders!r} is no list of folders")
        if not isinstance(prefix, str):
            raise ConfigError(f"prefix: {prefix!r} is no text")
        for folder in folders:
            if not isinstance(folder, str) or not _join(folder, ".") or folder.startswith("/"):
                raise ConfigError(f"media_folders: {folder!r} is no folder of the dataset")
        self.base = str(raw)
        self.folders = [normpath(folder) for folder in folders]
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._places: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        self._endings: dict[str, list[str]] | None = None
        self._found: dict[tuple[str, str, str], str] = {}

    def medium(self, kind: Literal["image", "video"], name: Any, beside: str) -> Medium:
        """The medium of a name in an annotation file that lies in the folder ``beside``.

        A file that is nowhere is claimed where it was looked for first.

        Raises:
            Rejection: ``bad_media``, ``remote_media``, ``embedded_media``: no name of a file;
                ``unsafe_path``: one that leads outside the dataset; ``ambiguous_media``: several
                files could be meant.
        """
        key = (kind, name, beside)
        if isinstance(name, str) and (found := self._found.get(key)):
            return Medium(kind=kind, path=found)
        if len(self._found) == KEPT:
            self._found.clear()
        self._found[key] = path = self._find(kind, _checked(name), beside)
        return Medium(kind=kind, path=path)

    def _find(self, kind: str, name: str, beside: str) -> str:
        path = name.removeprefix(self.prefix)
        roots, folders = self._look_in(kind, beside)
        upwards = ".." in path.split("/")
        if path.startswith("/"):
            found = self._rerooted(path, roots) or self._shortened(path, folders)
            if found is None:
                raise Rejection(
                    "unsafe_path",
                    f"{brief(name)} is absolute, and no file of the dataset is it for sure; "
                    "format_options: {prefix: ...} names what to leave out",
                )
            return found
        first = None
        for folder in roots if upwards else folders:
            if (found := _join(folder, path)) and self._is_file(found):
                return found
            first = first or found
        if first is None:
            raise Rejection("unsafe_path", f"{brief(name)} leads outside the dataset's folder")
        found = None
        if not upwards:
            found = self._rerooted(path, roots) or self._shortened(path, folders)
        return found or first

    def _look_in(self, kind: str, beside: str) -> tuple[list[str], list[str]]:
        """Folders whose archives may have other folders around their data, and all to look in."""
        if (kind, beside) not in self._places:
            roots = list(dict.fromkeys([*self.folders, normpath(beside)]))
            bases = [*roots, "."]
            folders = [*bases, *(f"{base}/{SUBFOLDERS[kind]}" for base in bases)]
            folders = list(dict.fromkeys(normpath(folder) for folder in folders))
            self._places[kind, beside] = roots, folders
        return self._places[kind, beside]

    def _is_file(self, path: str) -> bool:
        return os.path.isfile(f"{self.base}/{path}")

    def _is_folder(self, path: str) -> bool:
        return os.path.isdir(f"{self.base}/{path}")

    def _rerooted(self, path: str, roots: Sequence[str]) -> str | None:
        """The one file below ``roots`` that ends in the whole ``path``, which has a folder."""
        folder, _, file = normpath(path).strip("/").rpartition("/")
        if not folder:
            return None
        if self._endings is None:
            self._endings = self._index()
        for root in roots:
            candidates = [
                candidate
                for candidate in self._endings.get(folder, ())
                if root == "." or candidate.startswith(f"{root}/")
            ]
            if len(candidates) > MAX_CANDIDATES:
                continue
            found = [f"{candidate}/{file}" for candidate in candidates]
            found = [candidate for candidate in found if self._is_file(candidate)]
            if len(found) > 1:
                raise Rejection("ambiguous_media", f"{brief(path)}: {found[0]} or {found[1]}")
            if found:
                return found[0]
        return None

    def _shortened(self, path: str, folders: Sequence[str]) -> str | None:
        """The file that ``path`` is in ``folders`` when folders in front of it are left out."""
        parts = PurePosixPath(normpath(path)).relative_to("/" if path[0] == "/" else ".").parts
        start = 0 if path[0] == "/" else 1
        for first in range(start, len(parts) - 1):
            left_out = parts[first - 1] if first else ""
            if left_out and any(self._is_folder(f"{folder}/{left_out}") for folder in folders):
                return None
            for folder in folders:
                found = normpath("/".join((folder, *parts[first:])))
                if self._is_file(found):
                    return found
        return None

    def _index(self) -> dict[str, list[str]]:
        """All folders below ``raw`` by each path that they end in."""
        endings = defaultdict(list)
        for folder in self._walk():
            parts = folder.split("/")
            for start in range(len(parts)):
                endings["/".join(parts[start:])].append(folder)
        return dict(endings)

    def _walk(self) -> Iterator[str]:
        seen = set()
        for folder, subfolders, _ in os.walk(self.base, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders.sort()
            relative = os.path.relpath(folder, self.base)
            if relative != ".":
                yield relative


def _checked(name: Any) -> str:
    """The path that a name is.

    Raises:
        Rejection: it is none.
    """
    if not isinstance(name, str) or not (path := name.strip()):
        raise Rejection("bad_media", f"no name of a file: {brief(name)}")
    if path.startswith("data:"):
        raise Rejection("embedded_media", f"{brief(name)}: write the bytes into a file")
    path = path.removeprefix("file://")
    if REMOTE.match(path):
        raise Rejection("remote_media", f"{brief(name)}: fetch it into the dataset's folder")
    embedded = ".parquet#" in path and place_of(path)  # which only its own row may name
    if "\0" in path or len(path) > MAX_PATH or _is_long(path) or embedded:
        raise Rejection("bad_media", f"no name of a file: {brief(name)}")
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _is_long(path: str) -> bool:
    """Whether a part of a path is longer than file systems allow."""
    return len(path) > MAX_NAME // 4 and any(
        len(part.encode(errors="replace")) > MAX_NAME for part in path.split("/")
    )


def _join(folder: str, path: str) -> str | None:
    """``path`` in ``folder``, if that is inside the dataset."""
    joined = normpath(f"{folder}/{path}")
    return None if joined.split("/")[0] == ".." else joined
