"""Delivering once, or beside the jobs until their controller is gone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from shardline.errors import DataError
from shardline.tracking.observed import Json, watched_files
from shardline.tracking.place import unreachable
from shardline.tracking.state import pending

POLL_SECONDS = 4.0
LONGEST_WAIT = 60.0
Say = Callable[[str], None]


def say_line(text: str) -> None:
    """Print a line, if there still is somewhere to print it."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


class Courier:
    """Keeps a connection while it works, and says in one line when it stops or starts working."""

    def __init__(self, results: Path, uri: str, experiment: str, say: Say = say_line) -> None:
        self.place = (results, uri, experiment)
        self.say = say
        self.delivery = None
        self.seen: Json | None = None
        self.trouble = ""

    def try_to_deliver(self) -> bool:
        """One try; True if everything there was is delivered now.

        Trouble with the store is said once, until it is over; it never raises, for tracking is
        only a by-stander.
        """
        found = watched_files(self.place[0])
        if self.delivery is not None and found == self.seen:
            return True
        if self.delivery is None and not pending(*self.place):
            return True
        away = unreachable(self.place[1])
        trouble = away or self._deliver()
        if trouble:
            trouble = away or unreachable(self.place[1]) or trouble
            self.delivery = None
            if not self.trouble:
                self.say(f"mlflow: delivery pending: {trouble}; it is tried again later")
        else:
            self.seen = found
            if self.trouble:
                self.say("mlflow: the store takes runs again; all is delivered")
        self.trouble = trouble
        return not trouble

    def _deliver(self) -> str:
        from shardline.tracking.delivery import Delivery
        from shardline.tracking.store import NotDelivered, explain, store_errors

        try:
            if self.delivery is None:
                self.delivery = Delivery(*self.place)
            self.delivery.deliver()
        except (*store_errors(), NotDelivered, DataError) as error:
            return explain(error)
        return ""


def deliver_once(results: Path, uri: str, experiment: str, say: Say = say_line) -> bool:
    """Deliver what is there now; True if nothing is left."""
    return Courier(results, uri, experiment, say).try_to_deliver()


def follow(
    results: Path,
    uri: str,
    experiment: str,
    controller: int | None = None,
    say: Say = say_line,
    poll: float = POLL_SECONDS,
) -> bool:
    """Deliver every few seconds until the controller's process is gone, then a last time.

    Without a controller: until everything is delivered. While the store is away, tries come at
    growing intervals.

    Returns:
        Whether everything is delivered.
    """
    courier = Courier(results, uri, experiment, say)
    born = process_start(controller) if controller else None
    wait = poll
    while controller is None or (born and process_start(controller) == born):
        if courier.try_to_deliver():
            wait = poll
            if controller is None:
                return True
        else:
            wait = min(2 * wait, LONGEST_WAIT)
        end = time.monotonic() + wait
        while time.monotonic() < end and (not controller or process_start(controller) == born):
            time.sleep(min(0.5, wait))
    return courier.try_to_deliver()


def process_start(pid: int) -> str | None:
    """A living process' start time, which tells it from a later one with its number; else None."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _alive_without_proc(pid)
    return None if fields[0] in "ZX" else fields[19]


def _alive_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"
