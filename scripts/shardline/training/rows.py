"""A rank's rows of a plan, read ahead by worker processes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from shardline.errors import DataError
from shardline.hardware import Hardware
from shardline.loader import PlanDataset
from shardline.training import signals


def rows_from(data: PlanDataset, step: int, hardware: Hardware) -> Generator[dict[str, Any]]:
    """This rank's rows from a step (from 0) to the plan's end, in order.

    Raises:
        DataError: a sample cannot be read; its row's turn has come.
    """
    workers = hardware.workers
    loader = DataLoader(
        _Reporting(data),
        batch_size=None,
        sampler=range(step * data.accumulation, len(data)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=signals.obey_parent,
        pin_memory=hardware.device == "cuda",
        # A generator of its own: else each start takes a number from the one dropout uses.
        generator=torch.Generator(),
    )
    with signals.held_back():
        rows = iter(loader)
    try:
        for row in rows:
            if isinstance(row, DataError):
                raise row
            yield row
    finally:
        # An error's traceback would keep the processes alive, and with them the lease.
        del rows


class _Reporting(Dataset):
    """Gives an error as a row: raised in a worker, its traceback would become its message."""

    def __init__(self, data: PlanDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: int) -> dict[str, Any] | DataError:
        try:
            return self.data[item]
        except DataError as error:
            return DataError(str(error))
