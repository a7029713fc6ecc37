"""Folders of pictures, one sub-folder a class: what an image classifier learns from.

``0/a.jpg`` is a picture of class ``0``; folders inside a class folder do not matter. A picture
beside the class folders has no class and is rejected. ``classes: false`` takes any folder of
pictures, without classes. Files that are not called like a picture are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline import locks
from shardline.annotations import check_options
from shardline.errors import ConfigError, DataError
from shardline.images import IMAGE_ENDINGS
from shardline.rows import Rejection, Row, brief
from shardline.samples import Medium

DEFAULTS = {"folder": "", "classes": True}
FRAMES = ()


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield a row a picture, in the order of their paths, its class in ``meta.label``.

    Options:
        folder: where the class folders, or the pictures, are in the dataset.
        classes: whether the first folder below that is a class.

    Raises:
        ConfigError: an option that is none, or of the wrong kind.
        DataError: no pictures.
    """
    options = check_options(options, DEFAULTS, "format_options of labelled_images")
    folder, classes = options["folder"], options["classes"]
    if not isinstance(folder, str):
        raise ConfigError(f"format_options of labelled_images: folder: {brief(folder)} is no text")
    if not isinstance(classes, bool):
        raise ConfigError(
            f"format_options of labelled_images: classes: {brief(classes)}; allowed: true, false"
        )
    top = PurePosixPath(folder).parts
    found = False
    for file in locks.list_files(raw):
        parts = PurePosixPath(file).parts
        if not file.lower().endswith(IMAGE_ENDINGS) or parts[: len(top)] != top:
            continue
        found = True
        row = Row(file=file, index=0, block="pictures")
        below = parts[len(top) :]
        if classes and len(below) == 1:
            row.rejection = Rejection("no_label", "the picture is in no class folder")
        else:
            row.media = [Medium(kind="image", path=file)]
            row.meta = {"label": below[0]} if classes else {}
        yield row
    if not found:
        raise DataError(f"{raw / folder}: no picture ({', '.join(IMAGE_ENDINGS)})")
