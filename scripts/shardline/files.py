"""Reading and writing the files between the stages: atomic, hashed, byte-identical on a rerun."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import zstandard

from shardline.errors import DataError

ZSTD_LEVEL = 1  # rows are 12 % larger than at level 3, in 60 % of its time
_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)
PROBE = 1 << 20  # bytes


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path``; on success fsync and rename it, else remove it.

    Readers therefore see the old file or the whole new one, whatever is killed when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Raise the OSError of a full disk where a library that writes below ``folder`` hides it.

    torch and safetensors write from C++ and Rust: a full disk comes up as their own errors.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not _has_space(folder):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            raise full from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """One line of JSON with sorted keys: equal values give equal text. NaN is refused."""
    return _CANONICAL.encode(value)


def short_hash(value: Any, digits: int = 8) -> str:
    """The first hex digits of the sha256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())[:digits]


def read_json(path: Path) -> Any:
    """Parse a JSON file; a missing or broken one is a `DataError` that names it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    with atomic_file(Path(path), "w") as file:
        file.write(text + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one canonical JSON object a line, atomically."""
    write_parts(path, ((canonical_json(row) + "\n").encode() for row in rows))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write bytes as they are, atomically; what `compressed` makes may follow each other."""
    with atomic_file(Path(path)) as file:
        file.writelines(parts)


def compressed(data: bytes) -> bytes:
    """``data`` as one zstd frame; the same bytes give the same frame."""
    return _compressor().compress(data)


@cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL)


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the objects of a JSON-lines file; ``.zst`` names are decompressed on the way."""
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from None


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, each with its end; ``.zst`` names are decompressed on the way."""
    try:
        with open(path, "rb") as file:
            if not str(path).endswith(".zst"):
                yield from file
                return
            decompressor = zstandard.ZstdDecompressor()
            yield from io.BufferedReader(decompressor.stream_reader(file, read_across_frames=True))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: broken: {error}") from None


def file_entry(path: Path, name: str | None = None) -> dict[str, Any]:
    """``{"name", "bytes", "sha256"}`` of a file, as manifests list it."""
    return {
        "name": name or path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }


def _has_space(folder: Path) -> bool:
    """Whether `PROBE` more bytes can be written to the disk of ``folder``."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    return True
