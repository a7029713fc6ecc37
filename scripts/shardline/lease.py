"""A lease on a folder: one writer at a time, also after its scheduler has forgotten it.

When a scheduler is killed, the programs that it started may live on. The next run must neither
write beside such an orphan nor throw its work away: it waits. The lease is a file lock, which the
kernel drops with the last process that holds it; nothing can be left behind by a kill.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shardline.errors import UserError

PATIENCE = 1.0  # seconds between two attempts
REMIND = 60.0  # seconds between two messages


@contextlib.contextmanager
def lease(file: Path, say: Callable[[str], None] = print) -> Iterator[int]:
    """Hold the lock on ``file``; wait while another process has it.

    Args:
        file: ``lease`` in the folder, or, if that is replaced as a whole, what `beside` gives.

    Yields:
        The lock's file descriptor: a child process that inherits it holds the lease too.

    Raises:
        UserError: the file system has no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, file, say)
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def beside(folder: Path) -> Path:
    """The lease of a folder that is put in its place in one step: its hidden neighbour."""
    return folder.with_name(f".{folder.name}.lease")


def _acquire(descriptor: int, file: Path, say: Callable[[str], None]) -> None:
    said = -REMIND
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() - said >= REMIND:
                said = time.monotonic()
                say(
                    f"waiting for {_owner(descriptor)}, which holds {file}: an earlier run "
                    "started it and it is still at work. To go on at once, from what it has "
                    "finished, stop that process"
                )
            time.sleep(PATIENCE)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            raise UserError(
                f"{file}: this file system has no file locks ({error.strerror}), without which "
                "two programs could write over each other; put results on one that has them"
            ) from error


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
