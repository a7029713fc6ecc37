"""Finding and reading the annotation files of raw datasets, and the images that they name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.boxes import parse_numbers
from shardline.embedded import place_of
from shardline.errors import ConfigError, DataError
from shardline.rows import Rejection, brief
from shardline.samples import Medium

MAX_NAME = 255  # bytes of a part of a path, as file systems have it
MAX_PATH = 1024
KEPT = 200_000  # places of images in memory (50 MB); more are looked for anew


def find_annotations(raw: Path, choices: Sequence[str]) -> list[str]:
    """Annotation files, relative to ``raw`` and sorted, of the first glob that matches any.

    File managers' droppings (``._name``) are no annotations.

    Raises:
        ConfigError: a glob that leads outside ``raw``, or is none.
        DataError: nothing matches.
    """
    for pattern in choices:
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"annotations: {brief(pattern)} is no glob of file names")
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ConfigError(f"annotations: {pattern!r} leads outside the dataset's folder")
        found = sorted(
            path.relative_to(raw).as_posix()
            for path in raw.glob(pattern)
            if path.is_file() and not path.name.startswith("._")
        )
        if found:
            return found
    raise DataError(
        f"{raw}: no annotation file matches {' or '.join(choices)}; name them in the dataset's "
        "format_options: {annotations: <glob>}"
    )


def read_annotation(raw: Path, file: str) -> Any:
    """Parse an annotation file.

    Raises:
        DataError: it is not JSON; the message says where in the file.
    """
    try:
        return json.loads((raw / file).read_bytes())
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start}: not {error.encoding}"
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise DataError(f"{raw / file} is not valid JSON: {problem}")


def is_text(value: Any) -> bool:
    """Whether all strings inside ``value`` can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def text_fields(record: dict[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """Those of a record's fields that are there and are text."""
    return {key: value for key in keys if isinstance(value := record.get(key), str)}


def check_options(options: dict[str, Any], defaults: dict[str, Any], what: str) -> dict[str, Any]:
    """``options`` over ``defaults``.

    Raises:
        ConfigError: an option that ``defaults`` does not have.
    """
    if unknown := sorted(set(options) - set(defaults)):
        raise ConfigError(
            f"{what}: no option {', '.join(unknown)}; there are: {', '.join(sorted(defaults))}"
        )
    return {**defaults, **options}


def folders_near(file: str, names: Sequence[str]) -> list[str]:
    """Folders of these names in the dataset's, in an annotation file's and in the one above it."""
    parent = PurePosixPath(file).parent
    places = (PurePosixPath(), parent, parent.parent)
    return list(dict.fromkeys(str(place / name) for place in places for name in names))


class ImageFinder:
    """Finds images by the name an annotation gives, looking into folders in their order."""

    def __init__(self, raw: Path, folders: Sequence[str]) -> None:
        """``folders`` are relative to ``raw``; "" is ``raw`` itself."""
        self.raw = raw
        self.folders = folders
        self.found: dict[str, str] = {}

    def medium(self, name: Any, declared_size: Any = None) -> Medium:
        """The image ``name`` with its declared size; in the first folder if it is nowhere.

        The path of an image in a parquet file (see `shardline.embedded`) is taken as it is.

        Raises:
            Rejection: no name, a name that leads outside the dataset, a size that is none.
        """
        if not isinstance(name, str) or not name.strip():
            raise Rejection("bad_row", f"no image name: {brief(name)}")
        path = PurePosixPath(name.strip())
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise Rejection("unsafe_path", f"{brief(name)} leads outside the dataset's folder")
        longest = max((len(part.encode(errors="replace")) for part in path.parts), default=0)
        if longest > MAX_NAME or len(name) > MAX_PATH:
            raise Rejection("bad_row", f"no image name: {brief(name)}")
        width, height = _size(declared_size)
        found = str(path) if place_of(str(path)) else self._locate(str(path))
        return Medium(kind="image", path=found, width=width, height=height)

    def _locate(self, name: str) -> str:
        if name not in self.found:
            if len(self.found) >= KEPT:
                self.found.clear()
            candidates = [str(PurePosixPath(folder) / name) for folder in self.folders]
            self.found[name] = next(
                (path for path in candidates if (self.raw / path).is_file()), candidates[0]
            )
        return self.found[name]


def _size(value: Any) -> tuple[int, int]:
    """A declared [width, height] in pixels; (0, 0) where none is declared."""
    if value is None:
        return 0, 0
    try:
        width, height = parse_numbers(value, 2)
    except Rejection as problem:
        raise Rejection(
            "bad_size", f"declared image size {brief(value)}: {problem.detail}"
        ) from None
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise Rejection("bad_size", f"declared image size {brief(value)} is no size in pixels")
    return int(width), int(height)
