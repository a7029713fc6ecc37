"""Working through many independent items on several processes, results in the items' order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from shardline.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # items a process takes at once: some milliseconds of decoding against the hand-over


class Workers:
    """A pool of ``threads`` processes, started at the first need; a context manager."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item] | Iterable[Item]
    ) -> Iterator[Result]:
        """Yield ``function(item)`` in the order of ``items``; ``function`` must be picklable.

        Raises:
            DataError: the system killed a worker (mostly for its memory).
        """
        items = list(items)
        if self.threads == 1 or len(items) < 2 * self.threads:
            yield from map(function, items)
            return
        if self.pool is None:
            self.pool = ProcessPoolExecutor(self.threads)
        chunk = min(CHUNK, -(-len(items) // self.threads))
        done = 0
        try:
            for result in self.pool.map(function, items, chunksize=chunk):
                yield result
                done += 1
        except BrokenProcessPool:
            raise DataError(
                "a worker process was killed, probably for its memory, at or soon after "
                f"{items[done]}; give it fewer threads or take the file out"
            ) from None
