"""Shards of canonical samples, as converters write them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shardline.files import canonical_json, compressed, write_parts


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_parts(path, [compressed("".join(canonical_json(row) + "\n" for row in rows).encode())])
