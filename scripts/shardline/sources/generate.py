"""``generate:<generator>``: data drawn by a module of ``shardline/generators``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline import folders, registry
from shardline.files import short_hash


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Let the generator ``place`` write its dataset with ``options``, and put it at ``raw``.

    Returns:
        A hash of the options.
    """
    generator = registry.load("generators", place, plugins)
    revision = short_hash(options)
    folders.remove(folders.unfinished(raw, revision))  # generators start afresh
    folder = folders.unfinished(raw, revision)
    generator.generate(folder, options)
    folders.install(folder, raw)
    return revision
