"""``folder:/path``: data that is already on a disk; it is linked, not copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline import folders
from shardline.errors import ConfigError


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Link ``raw`` to the folder ``place`` (relative to the project's root or absolute).

    Returns:
        "": a folder has no revisions.

    Raises:
        ConfigError: there is no such folder, or options, of which a folder has none.
    """
    if options:
        raise ConfigError(f"source_options: a folder has none, not {', '.join(sorted(options))}")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"source folder:{place}: no such folder")
    folders.link(folder, raw)
    return ""
