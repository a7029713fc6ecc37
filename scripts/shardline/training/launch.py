"""Starting one process a device on this machine, and ending them together."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from shardline.errors import TEMPORARY_FAILURE, Interrupted, UserError
from shardline.training.signals import SIGNALS

GRACE = 5.0  # seconds for the other ranks to end after one has failed
PATIENCE = timedelta(hours=1)  # with a rank that is busy, e.g. reading a large model
STORE = "SHARDLINE_STORE"
"""Of rank 0: descriptor of the socket at which ranks meet; of the others: empty."""


def in_rank() -> bool:
    """Whether this process is one of several that `run_ranks`, torchrun or Slurm has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def started_here() -> bool:
    """Whether `run_ranks` has started this rank: its parent holds the lease and records."""
    return STORE in os.environ


def own_rank() -> tuple[int, int]:
    """This process's rank, and how many there are; (0, 1) outside a group."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_ranks(backend: str) -> None:
    """Connect this rank with the others, if it is one; whoever started it.

    Args:
        backend: of torch.distributed.
    """
    import torch

    if not in_rank() or torch.distributed.is_initialized():
        return

    rank, ranks = own_rank()
    options = {"backend": backend, "rank": rank, "world_size": ranks, "timeout": PATIENCE}
    if started_here():
        descriptor = os.environ[STORE]
        options["store"] = torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            ranks,
            is_master=rank == 0,
            timeout=PATIENCE,
            wait_for_workers=False,
            master_listen_fd=int(descriptor) if descriptor else None,
        )
    torch.distributed.init_process_group(**options)


def run_ranks(program: Sequence[str], ranks: int, threads: int, lease: int) -> None:
    """Run ``python <program>`` ``ranks`` times as one process group with torchrun's variables.

    Signals to stop are passed on, as often as they come, and the ranks are waited for as long as
    they need to save (torchrun kills them after 30 s). The ranks hold the lease with this process.

    Args:
        threads: of all ranks together.
        lease: file descriptor of the lease.

    Raises:
        Interrupted: the ranks saved and stopped because they were asked to.
        UserError: a rank failed; its own message is in the log.
    """
    # Open from here on, so that no other program can take the port before rank 0 has it.
    meeting = socket.create_server(("127.0.0.1", 0))
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.getsockname()[1]),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": str(max(1, threads // ranks)),
    }
    before = {number: signal.getsignal(number) for number in SIGNALS}
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    try:
        for number in SIGNALS:
            signal.signal(number, pass_on)
        for rank in range(ranks):
            processes.append(
                subprocess.Popen(
                    [sys.executable, *program],
                    env=environment
                    | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    | {STORE: "" if rank else str(meeting.fileno())},
                    pass_fds=(lease,) if rank else (lease, meeting.fileno()),
                )
            )
        meeting.close()
        codes, first = _wait(processes)
    finally:
        meeting.close()
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if first is not None:
        raise UserError(
            f"rank {first} of {ranks} failed first (exit status {codes[first]}); see above"
        )
    if any(codes):
        raise Interrupted("the ranks saved their state; run again to continue")


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[list[int], int | None]:
    """All exit statuses, and which rank was the first to fail."""
    first, deadline = None, math.inf
    running = True
    while running:
        codes = [process.poll() for process in processes]
        running = None in codes
        failed = [
            rank for rank, code in enumerate(codes) if code not in (None, 0, TEMPORARY_FAILURE)
        ]
        if failed and first is None:
            first, deadline = failed[0], time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1 if running else 0)
    return codes, first
