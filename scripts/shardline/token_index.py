"""The index beside a token shard: one row a sample, with lengths and where its members lie.

Whatever planning needs is a column, so that no tar is opened for it; the shard's own facts (size,
hash, counts, tokenizer) travel in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardline.errors import DataError
from shardline.files import atomic_file, canonical_json, sha256_file
from shardline.shards import Member

METADATA = b"shardline"
IMAGE_SUFFIX = "png"
MODEL_FACTS = ("family", "placeholder_ids", "tokenizer_sha256", "template_sha256")
"""Facts of a shard that all shards of one training must share."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("group", pa.string()),
        ("pack", pa.string()),
        ("length", pa.int32()),
        ("text_length", pa.int32()),
        ("placeholders", pa.int32()),
        ("patches", pa.int32()),
        ("supervised", pa.int32()),
        ("media_end", pa.int32()),
        ("answers", pa.list_(pa.int32())),
        ("grids", pa.list_(pa.list_(pa.int32()))),
        ("intervals", pa.list_(pa.float64())),
        (
            "members",
            pa.list_(
                pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
            ),
        ),
    ]
)


def write_index(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    members: Sequence[Sequence[Member]],
    facts: Mapping[str, Any],
) -> None:
    """Write a shard's index, atomically.

    Args:
        rows: the columns of `SCHEMA` but ``members``, in the order of the tar.
        members: of each sample, as `write_shard` returns them.
        facts: of the shard as a whole, plain JSON data.
    """
    complete = [
        {**row, "members": [member._asdict() for member in entries]}
        for row, entries in zip(rows, members, strict=True)
    ]
    schema = SCHEMA.with_metadata({METADATA: canonical_json(facts).encode()})
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(complete, schema), file, compression="zstd")


def read_index(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a shard's index; only ``columns`` if given.

    Raises:
        DataError: there is no such index, or it is damaged.
    """
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a token index: {error}") from None


def read_facts(path: Path) -> dict[str, Any]:
    """What `write_index` was told about the shard as a whole."""
    try:
        return json.loads(pq.read_schema(path).metadata[METADATA])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not a token index: {error}") from None


class ShardIndex:
    """One shard's index in memory, for random access: about 16 bytes a member and sample."""

    def __init__(self, path: Path, sha256: str) -> None:
        """Load and check it.

        Raises:
            DataError: the file is not the one with this hash, or samples differ in their members.
        """
        if sha256_file(path) != sha256:
            raise DataError(f"{path}: changed since the plan was made; run the plan again")
        table = read_index(
            path, ["id", "dataset", "grids", "intervals", "members"]
        ).combine_chunks()
        members = table["members"].combine_chunks()
        flat = members.flatten()
        self.path = path
        self.ids = table["id"]
        self.datasets = table["dataset"]
        self.grids = table["grids"]
        self.intervals = table["intervals"]
        first = flat.field("name")[: len(members[0]) if len(members) else 0].to_pylist()
        self.suffixes = [name.partition(".")[2] for name in first]
        if len(flat) != len(members) * len(first):
            raise DataError(f"{path}: its samples differ in their members")
        shape = (len(members), len(first))
        self.offsets = flat.field("offset").to_numpy(zero_copy_only=False).reshape(shape)
        self.sizes = flat.field("size").to_numpy(zero_copy_only=False).reshape(shape)

    def places(self, row: int) -> dict[str, tuple[int, int]]:
        """``{suffix: (offset, size)}`` of a sample's members in the tar."""
        return {
            suffix: (int(self.offsets[row, column]), int(self.sizes[row, column]))
            for column, suffix in enumerate(self.suffixes)
        }


def grid_table(grids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The grids of many samples as numbers.

    Returns:
        ``counts`` int64 [samples]: media of each; ``grids`` int64 [media, 3].

    Raises:
        DataError: a grid has not three numbers.
    """
    column = grids.combine_chunks()
    counts = np.asarray(column.value_lengths().fill_null(0), dtype=np.int64)
    media = column.flatten()
    if any(length != 3 for length in np.unique(np.asarray(media.value_lengths()))):
        raise DataError("a grid in the index has not three numbers")
    return counts, np.asarray(media.flatten(), dtype=np.int64).reshape(-1, 3)
