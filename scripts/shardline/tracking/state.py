"""What was delivered already, and that only one process delivers."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline.files import read_json, write_json
from shardline.tracking.observed import watched_files
from shardline.tracking.place import identity, sqlite_file

Json = dict[str, Any]


def state_file(results: Path, uri: str) -> Path:
    """Where it is recorded what the store at ``uri`` has got."""
    return results / "tracking" / identity(uri) / "state.json"


def load_state(results: Path, uri: str, experiment: str) -> Json:
    """The record for a store and experiment; an empty one where there is none."""
    path = state_file(results, uri)
    state = read_json(path) if path.is_file() else {}
    return state if state.get("experiment") == experiment else new_state(experiment)


def new_state(experiment: str) -> Json:
    """The record of a store that has got nothing."""
    return {
        "experiment": experiment,
        "store": None,
        "runs": {},
        "recipes": {},
        "delivered": None,
    }


def save_state(results: Path, uri: str, state: Json) -> None:
    """Write the record, atomically."""
    write_json(state_file(results, uri), state)


def pending(results: Path, uri: str, experiment: str) -> bool:
    """Whether there may be something to deliver. Needs no MLflow and opens no store.

    True after any change of a journal, result, export or report, or if a SQLite store is gone;
    False once all of them were delivered, and where nothing was trained.
    """
    found = watched_files(results)
    if not found:
        return False
    database = sqlite_file(uri)
    if database is not None and not database.is_file():
        return True
    return load_state(results, uri, experiment)["delivered"] != found


@contextlib.contextmanager
def only_deliverer(results: Path) -> Iterator[bool]:
    """Yield whether this process delivers now; a dead process' lock is free by itself."""
    path = results / "tracking" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
