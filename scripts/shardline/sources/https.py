"""``https://host/path/file``: one file of the web, which must have the sha256 that is stated.

``source_options: {sha256: …}`` is required; ``name`` is what the file is called, by default what
the address ends in; ``extract`` unpacks it if it is an archive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from shardline import folders
from shardline.archives import extract_matching, limits_of
from shardline.downloads import download
from shardline.errors import ConfigError
from shardline.files import short_hash

REMOTE = True
OPTIONS = ("sha256", "name", "extract", "extract_limits")
SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(
    place: str,
    raw: Path,
    options: dict[str, Any],
    *,
    kind: str,
    plugins: Sequence[str] = (),
    scheme: str = "https",
) -> str:
    """Download the file into the folder ``raw``; a download that was cut off is continued.

    Args:
        place: the address without its scheme.

    Returns:
        The file's sha256.

    Raises:
        ConfigError: no or a wrong sha256, another wrong option, an address that names no file.
        DataError: it cannot be had, or is another file.
    """
    url = f"{scheme}://{place}"
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"source_options of {scheme}: no option {', '.join(unknown)}; there are: "
            f"{', '.join(OPTIONS)}"
        )
    sha256 = str(options.get("sha256", "")).lower()
    if not SHA256.fullmatch(sha256):
        raise ConfigError(
            f"source {url}: source_options.sha256 must state the file's sha256, 64 hex digits: an "
            "address does not say what it will give tomorrow"
        )
    name = options.get("name") or unquote(urlsplit(url).path).rpartition("/")[2]
    if not name or "/" in name or name in (".", ".."):
        raise ConfigError(f"source {url}: give the file's name as source_options.name")
    limits = limits_of(options)
    folder = folders.unfinished(raw, short_hash([url, sha256, name]))
    folders.keep_only(folder, [name, f"{name}.part"])
    if not (folder / name).is_file():
        download(url, folder / name, sha256)
    extract_matching(folder, options.get("extract", []), limits)
    folders.install(folder, raw)
    return sha256
