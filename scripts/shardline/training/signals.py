"""Requests to stop: SIGTERM and SIGUSR1 from a scheduler, SIGINT from a person."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ECHO = 2.0  # seconds: a signal to a whole process group also comes passed on by its leader


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes started in this context get no request to stop; they call `obey_parent`.

    One to a whole process group would end the loader's processes, and with them the training that
    is about to save. This process gets what came meanwhile at the context's end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent(_worker: int = 0) -> None:
    """In a process started in `held_back`: end when the parent, and nobody else, says so."""

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class StopRequest:
    """Notes the first request; one that comes later again acts as it would have without us.

    A context, whose end puts the former handlers back; to be made in the main thread.
    """

    def __init__(self) -> None:
        """Install the handlers."""
        self.name = ""
        self._since = 0.0
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def __call__(self) -> str:
        """The name of the signal that was received, or an empty text."""
        return self.name

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            self.restore()
            signal.raise_signal(number)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
