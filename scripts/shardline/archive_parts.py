"""Archives in parts: which files belong together, and reading them as one.

A large archive is often cut into ``<name>.tar.gz.part_000``, ``..._part1`` and so on. The parts of
one archive lie in one folder and have one prefix; their numbers are contiguous from 0 and are
compared as numbers, so that part 10 follows part 9.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from shardline.errors import DataError

PART = re.compile(r"^(?P<name>.+?)[._-]?part[._-]?(?P<number>\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Archive:
    """An archive of one or more files, in the order in which their bytes follow one another."""

    name: str
    folder: Path
    parts: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part.stat().st_size for part in self.parts)


def group(files: Iterable[Path]) -> list[Archive]:
    """Join the files that are parts of one archive; the others are an archive each.

    Raises:
        DataError: a part is missing or there twice.
    """
    whole: list[Archive] = []
    parts: dict[tuple[Path, str], dict[int, Path]] = {}
    for file in sorted(files):
        if not (match := PART.match(file.name)):
            whole.append(Archive(file.name, file.parent, (file,)))
            continue
        numbered = parts.setdefault((file.parent, match["name"]), {})
        number = int(match["number"])
        if number in numbered:
            raise DataError(f"{file.name} and {numbered[number].name} are both part {number}")
        numbered[number] = file
    for (folder, name), numbered in parts.items():
        for number in range(max(numbered) + 1):
            if number not in numbered:
                there = ", ".join(str(n) for n in sorted(numbered))
                raise DataError(f"{folder / name}: part {number} is missing; there are {there}")
        whole.append(Archive(name, folder, tuple(numbered[n] for n in sorted(numbered))))
    return sorted(whole, key=lambda archive: (archive.folder, archive.name))


class Joined(io.RawIOBase):
    """The parts of an archive as one file that can be read and sought; one is open at a time."""

    def __init__(self, archive: Archive) -> None:
        super().__init__()
        self._parts = archive.parts
        sizes = [part.stat().st_size for part in archive.parts]
        self._starts = [0, *accumulate(sizes)]
        self._position = 0
        self._number = 0
        self._file = open(self._parts[0], "rb")  # noqa: SIM115

    @property
    def part(self) -> Path:
        """The part that was read last."""
        return self._parts[self._number]

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the first part."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte; see `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Read from the part in which the position is."""
        if self._position >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._position) - 1
        if number != self._number:
            self._file.close()
            self._file = open(self._parts[number], "rb")  # noqa: SIM115
            self._number = number
        self._file.seek(self._position - self._starts[number])
        length = min(len(buffer), self._starts[number + 1] - self._position)
        data = self._file.read(length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the part that is open."""
        self._file.close()
        super().close()
