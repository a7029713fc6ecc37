"""``folder:/path``: data that is already on a disk; it is linked, not copied, and never written to.

``source_options: {extract: [patterns]}`` unpacks archives: the dataset is then a folder of links to
the files, with what was in the archives beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline import folders
from shardline.archives import extract_matching, limits_of
from shardline.errors import ConfigError
from shardline.files import short_hash
from shardline.locks import list_files

OPTIONS = ("extract", "extract_limits")


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Link ``raw`` to the folder ``place`` (relative to the project's root or absolute).

    Returns:
        "": a folder has no revisions.

    Raises:
        ConfigError: there is no such folder, or a wrong option.
        DataError: an archive that is broken or unsafe.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"source_options of folder: no option {', '.join(unknown)}; there are: "
            f"{', '.join(OPTIONS)}"
        )
    limits = limits_of(options)
    folder = folders.source_folder(place)
    if not folder.is_dir():
        raise ConfigError(f"source folder:{place}: no such folder")
    if not options.get("extract"):
        folders.link(folder, raw)
        return ""
    own = folders.unfinished(raw, short_hash([str(folder), options]))
    folders.keep_only(own, [])
    for path in list_files(folder):
        link = own / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((folder / path).resolve())
    extract_matching(own, options["extract"], limits)
    folders.install(own, raw)
    return ""
