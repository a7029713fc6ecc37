"""Running a network over many pictures, to the same bits on any number of cores.

A forward runs on one CPU thread and always over `BATCH` pictures, several forwards beside each
other: what a picture gets depends neither on the number of cores nor on the pictures around it. (A
ResNet-50 on two threads has other last digits than on one.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice

import numpy as np

from shardline.scoring import Run

BATCH = {"cpu": 16, "cuda": 64}


def in_batches(
    pictures: Iterable[np.ndarray], forward: Callable[[np.ndarray], np.ndarray], run: Run
) -> Iterator[np.ndarray]:
    """Yield what ``forward`` says of each picture, in order.

    Args:
        pictures: all of one shape; taken while results are asked for.
        forward: a batch of pictures to an array with a row a picture.
    """
    import torch

    pictures = iter(pictures)
    threads = run.threads if run.device == "cpu" else 1
    size = BATCH[run.device]
    waiting: deque[Future[np.ndarray]] = deque()
    # Each thread has an OpenMP setting of its own.
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        for first in pictures:
            batch = [first, *islice(pictures, size - 1)]
            waiting.append(pool.submit(_filled_up, forward, batch, size))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        yield from chain.from_iterable(future.result() for future in waiting)


def _filled_up(
    forward: Callable[[np.ndarray], np.ndarray], batch: list[np.ndarray], size: int
) -> np.ndarray:
    filled = np.zeros((size, *batch[0].shape), batch[0].dtype)
    filled[: len(batch)] = batch
    return forward(filled)[: len(batch)]
