"""Random access to the samples of token shards, with the shards' sizes and every read checked."""

from __future__ import annotations

import io
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardline.errors import DataError
from shardline.png import decode_png
from shardline.token_index import IMAGE_SUFFIX, ShardIndex

ATTEMPTS = 3
WAIT = 0.2  # seconds before the second attempt, doubled before the third
OPEN_SHARDS = 128  # file handles a process keeps


@dataclass(frozen=True)
class StoredSample:
    """One sample as stored: one placeholder a medium, ``images`` uint8 [height, width, 3]."""

    id: str
    dataset: str
    input_ids: np.ndarray
    labels: np.ndarray
    grids: list[tuple[int, int, int]]
    intervals: list[float]
    images: list[np.ndarray]


class TokenReader:
    """Reads samples by shard and row; files are opened when first needed, in each process anew."""

    remedy = "tokenise this shard again"

    def __init__(
        self, results: Path, shards: Sequence[Mapping[str, Any]], pictures: bool = True
    ) -> None:
        """Remember where the shards are.

        Args:
            results: the folder that the shards' paths are relative to.
            shards: a plan's: ``path``, ``index``, ``bytes``, ``index_sha256`` of each.
            pictures: False: samples come without images.
        """
        self.pictures = pictures
        self.results = results
        self.shards = shards
        self._indexes: dict[int, ShardIndex] = {}
        self._files: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in their process."""
        return {**self.__dict__, "_files": OrderedDict()}

    def read(self, shard: int, row: int) -> StoredSample:
        """One sample; a read that fails is tried again, since network disks have bad moments.

        Raises:
            DataError: the shard is not the planned one, or the third attempt failed too; the
                message names shard and sample.
        """
        sample = f"row {row}"
        for attempt in range(ATTEMPTS):
            try:
                index = self._index(shard)
                sample = f"sample {index.ids[row].as_py()} (row {row})"
                return self._decode(shard, row, index)
            except DataError:
                raise
            except Exception as error:  # numpy raises anything for damaged bytes
                problem = error
                self._close(shard)
                if attempt + 1 < ATTEMPTS:
                    time.sleep(WAIT * 2**attempt)
        raise DataError(
            f"{self._path(shard)}: {sample} cannot be read after {ATTEMPTS} attempts: {problem}; "
            f"check the disk, or {self.remedy}"
        )

    def close(self) -> None:
        """Close all files."""
        for shard in list(self._files):
            self._close(shard)

    def _decode(self, shard: int, row: int, index: ShardIndex) -> StoredSample:
        images, arrays = [], {}
        descriptor = self._file(shard)
        for suffix, (offset, size) in index.places(row).items():
            if (suffix.endswith(f".{IMAGE_SUFFIX}") and self.pictures) or suffix.endswith(".npy"):
                data = os.pread(descriptor, size, offset)
                if len(data) != size:
                    raise OSError(f"{len(data)} of {size} bytes of {suffix} were read")
                if suffix.endswith(f".{IMAGE_SUFFIX}"):
                    images.append(decode_png(data))
                else:
                    arrays[suffix] = np.load(io.BytesIO(data), allow_pickle=False)
        ids, labels = arrays["input_ids.npy"], arrays["labels.npy"]
        if ids.ndim != 1 or ids.shape != labels.shape:
            raise ValueError(f"labels {labels.shape} for tokens {ids.shape}")
        return StoredSample(
            index.ids[row].as_py(),
            index.datasets[row].as_py(),
            ids,
            labels,
            [tuple(grid) for grid in index.grids[row].as_py()],
            index.intervals[row].as_py(),
            images,
        )

    def _path(self, shard: int) -> Path:
        return self.results / self.shards[shard]["path"]

    def _index(self, shard: int) -> ShardIndex:
        if shard not in self._indexes:
            entry = self.shards[shard]
            self._indexes[shard] = ShardIndex(self.results / entry["index"], entry["index_sha256"])
        return self._indexes[shard]

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = self._path(shard)
        descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        if size != self.shards[shard]["bytes"]:
            os.close(descriptor)
            raise DataError(
                f"{path}: has {size} bytes, the plan knows {self.shards[shard]['bytes']}; the file "
                f"is not whole or was replaced: {self.remedy}"
            )
        self._files[shard] = descriptor
        if len(self._files) > OPEN_SHARDS:
            self._close(next(iter(self._files)))
        return descriptor

    def _close(self, shard: int) -> None:
        descriptor = self._files.pop(shard, None)
        if descriptor is not None:
            os.close(descriptor)
