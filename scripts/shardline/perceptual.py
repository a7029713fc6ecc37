"""64-bit perceptual hashes of images, and finding those that are near each other."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from shardline.errors import ConfigError
from shardline.files import atomic_file, short_hash
from shardline.fingerprint import closure
from shardline.images import decode_audited
from shardline.parallel import Workers
from shardline.versions import package_versions

BITS = 64
SIDE = 32  # pixels of the grey reduction that ImageHash's phash transforms
FLAT = 8  # grey levels (of 256) below which a reduction holds noise and no picture
TABLE = [("sha256", "S64"), ("hash", "u8"), ("is_flat", bool)]
SAVED_AT_ONCE = 20_000  # images: a killed run loses the hashes of so many
PAIRS_AT_ONCE = 4_000_000  # candidate pairs compared in one go: 100 MB


def perceptual_hash(image: Image.Image) -> int | None:
    """ImageHash's ``phash`` as an unsigned 64-bit number, or None for a flat image.

    A flat image's hash would be its noise: all of them, of whatever colour, would look alike.
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    darkest, lightest = small.getextrema()
    if lightest - darkest < FLAT:
        return None
    return int(str(imagehash.phash(small)), 16)


def hash_file(path: str) -> int | None:
    """The perceptual hash of an image file as people see it: upright, transparency on white.

    Raises:
        DataError: the file is gone or is no image, though the audit took it.
    """
    return perceptual_hash(decode_audited(path))


class Hasher:
    """Hashes images, each content once; what earlier runs hashed lies in files.

    Other code or other packages hash anew.

    Args:
        workers: what hashes.
        folder: has a sub-folder a dataset, with one hidden file of its hashes.
    """

    def __init__(self, workers: Workers, folder: Path) -> None:
        self.workers = workers
        self.folder = folder
        self.hashes: dict[str, int | None] = {}
        self.known: dict[str, np.ndarray] = {}
        versions = package_versions("imagehash", "numpy", "pillow", "scipy")
        self.made_by = short_hash([closure(Path(__file__)), versions])

    def hashes_of(self, files: Iterable[tuple[str, str, str]]) -> dict[str, int | None]:
        """The hash of each content by sha256; those that are new are hashed, on all workers.

        Args:
            files: (dataset, sha256, path), also many of one content.
        """
        wanted: dict[str, None] = {}
        new: dict[str, tuple[str, str]] = {}
        for dataset, sha256, path in files:
            wanted[sha256] = None
            if dataset not in self.known:
                self._load(dataset)
            if sha256 not in self.hashes:
                new.setdefault(sha256, (dataset, path))
        items = list(new.items())
        for start in range(0, len(items), SAVED_AT_ONCE):
            some = items[start : start + SAVED_AT_ONCE]
            made = self.workers.map(hash_file, [path for _, (_, path) in some])
            self.hashes.update(zip((sha256 for sha256, _ in some), made, strict=True))
            for dataset in sorted({dataset for _, (dataset, _) in some}):
                self._save(dataset, [sha256 for sha256, (of, _) in some if of == dataset])
        return {sha256: self.hashes[sha256] for sha256 in wanted}

    def _load(self, dataset: str) -> None:
        path = self._path(dataset)
        table = np.load(path) if path.is_file() else np.empty(0, TABLE)
        self.known[dataset] = table
        for sha256, value, is_flat in table.tolist():
            self.hashes[sha256.decode()] = None if is_flat else value

    def _save(self, dataset: str, new: list[str]) -> None:
        path = self._path(dataset)
        rows = [(name, self.hashes[name] or 0, self.hashes[name] is None) for name in new]
        self.known[dataset] = np.concatenate([self.known[dataset], np.array(rows, TABLE)])
        for other in path.parent.glob(".phashes-*.npy"):
            if other != path:
                other.unlink(missing_ok=True)  # another dataset's job may do the same
        with atomic_file(path) as file:
            np.save(file, self.known[dataset])

    def _path(self, dataset: str) -> Path:
        return self.folder / dataset / f".phashes-{self.made_by}.npy"


def distance(first: int, second: int) -> int:
    """How many of two hashes' 64 bits differ."""
    return (first ^ second).bit_count()


def near_pairs(
    left: np.ndarray, right: np.ndarray, max_distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most ``max_distance`` bits.

    Two hashes that differ in d bits agree on one of any d + 1 bands of bits, so only hashes that
    agree on a band are compared (Norouzi, Punjani, Fleet: Fast search in Hamming space with
    multi-index hashing, CVPR 2012).

    Args:
        left: uint64 [n].
        right: uint64 [m].
        max_distance: bits, 0 to 63.

    Returns:
        Indices into ``left`` and into ``right``, int64 [pairs] each, sorted.

    Raises:
        ConfigError: ``max_distance`` is no such number.
    """
    if type(max_distance) is not int or not 0 <= max_distance < BITS:
        raise ConfigError(f"max_distance: {max_distance!r} is no whole number from 0 to 63 (bits)")
    found = [np.empty(0, np.int64)]
    edges = np.linspace(0, BITS, max_distance + 2).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        left_keys = (left >> np.uint64(low)) & mask
        right_keys = (right >> np.uint64(low)) & mask
        order = np.argsort(right_keys, kind="stable")
        sorted_keys = right_keys[order]
        first = np.searchsorted(sorted_keys, left_keys, "left")
        counts = np.searchsorted(sorted_keys, left_keys, "right") - first
        ends = np.cumsum(counts)
        start = 0
        while start < len(left):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
            block = counts[start:stop]
            i = np.repeat(np.arange(start, stop), block)
            within = np.arange(len(i)) - np.repeat(np.cumsum(block) - block, block)
            j = order[np.repeat(first[start:stop], block) + within]
            near = np.bitwise_count(left[i] ^ right[j]) <= max_distance
            found.append(i[near] * len(right) + j[near])
            start = stop
    pairs = np.unique(np.concatenate(found))
    return pairs // max(len(right), 1), pairs % max(len(right), 1)
