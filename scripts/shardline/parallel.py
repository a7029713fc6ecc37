"""Working through many independent items on several processes, results in the items' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import cycle
from typing import TypeVar

from shardline.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items a process that `stream` has under way or done, to be asked for
CHUNK = 16  # items a process takes at once: some milliseconds of decoding against the hand-over


class Workers:
    """A pool of ``threads`` processes, started at the first need; a context manager."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool: ProcessPoolExecutor | None = None
        self.lanes: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool in (*self.lanes, *([self.pool] if self.pool else [])):
            pool.shutdown(cancel_futures=True)

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
        chunk = min(CHUNK, -(-len(items) // self.threads))
        done = 0
        try:
            for result in self._started().map(function, items, chunksize=chunk):
                yield result
                done += 1
        except BrokenProcessPool:
            raise _killed(str(items[done])) from None

    def stream(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        name: Callable[[Item], str],
    ) -> Iterator[Result]:
        """As `map`, for items that are many or large: they are taken while results are asked for.

        Streams have processes of their own. The items that have the same number in two streams go
        to the same process, so that the first stream may leave there what the second takes up.

        Raises:
            DataError: the system killed a worker; ``name`` says of an item which it is.
        """
        if self.threads == 1:
            yield from map(function, items)
            return
        if not self.lanes:
            self.lanes = [ProcessPoolExecutor(1) for _ in range(self.threads)]
        waiting: deque[tuple[str, Future[Result]]] = deque()
        place = ""
        try:
            for item, lane in zip(items, cycle(self.lanes), strict=False):
                place = waiting[0][0] if waiting else name(item)
                waiting.append((name(item), lane.submit(function, item)))
                if len(waiting) > AHEAD * self.threads:
                    place, future = waiting.popleft()
                    yield future.result()
            while waiting:
                place, future = waiting.popleft()
                yield future.result()
        except BrokenProcessPool:
            raise _killed(place) from None

    def _started(self) -> ProcessPoolExecutor:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(self.threads)
        return self.pool


def _killed(name: str) -> DataError:
    return DataError(
        "a worker process was killed, probably for its memory, at or soon after "
        f"{name}; give it fewer threads or take the file out"
    )
