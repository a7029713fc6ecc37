"""Parquet files with embedded images, as the `datasets` library writes them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raw_datasets import picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_bytes(seed: int, kind: str = "PNG", size: tuple[int, int] = (120, 80)) -> bytes:
    """An encoded picture."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, kind)
    return buffer.getvalue()


def embedded(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    """An image column's value."""
    return {"bytes": data, "path": path}


def write_parquet(path: Path, columns: dict[str, pa.Array | Sequence[Any]], rows: int = 3) -> None:
    """Write columns to a parquet file in row groups of ``rows`` rows; ``image`` has images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if any(isinstance(value, dict) for value in columns.get("image", [])):
        columns = {**columns, "image": pa.array(columns["image"], IMAGE)}
    pq.write_table(pa.table(columns), path, row_group_size=rows)
