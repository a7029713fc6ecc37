"""``http://host/path/file``: as `shardline.sources.https`; the sha256 tells what came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline.sources import https

REMOTE = True


def fetch(
    place: str, raw: Path, options: dict[str, Any], *, kind: str, plugins: Sequence[str] = ()
) -> str:
    """Download the file into the folder ``raw``; see `shardline.sources.https.fetch`."""
    return https.fetch(place, raw, options, kind=kind, plugins=plugins, scheme="http")
