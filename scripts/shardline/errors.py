"""Errors that a user can act on, and the entry point that prints them without a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
CTRL_C = 130  # what shells report for SIGINT
TEMPORARY_FAILURE = 75  # os.EX_TEMPFAIL: a scheduler may simply try again


class UserError(Exception):
    """Something is wrong outside the code: a config value, a data file, the machine.

    The message says what is wrong, where, and what to do; it is printed as it is.
    """


class ConfigError(UserError):
    """A config value is wrong; the message names file, key, value and what is allowed."""


class DataError(UserError):
    """A data file or row is wrong; the message names dataset, file and row."""


class SampleError(DataError):
    """One sample cannot be used: the stage counts it under ``reason`` and goes on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class GateError(UserError):
    """A gate found that going on would waste or poison the work that follows."""


class Interrupted(UserError):
    """The program was asked to stop and saved its state; running it again continues."""


def run_program(main: Callable[[Sequence[str] | None], None], *, network: bool = False) -> None:
    """Run a program's ``main(argv)`` and exit: 0, 1 for a user error, 75 for an interruption, 130
    for a Ctrl-C that was not.

    A traceback is left only for what is a bug; a full disk is named with its path.

    Args:
        network: the program fetches; any other one sees neither the hub nor its token, and what
            it has not got is an error that says so.
    """
    if not network:
        for name in TOKENS:
            os.environ.pop(name, None)
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
    try:
        main(None)
    except Interrupted as stop:
        _leave(f"stopped: {stop}", TEMPORARY_FAILURE)
    except KeyboardInterrupt:
        _leave("stopped at once, by Ctrl-C", CTRL_C)
    except UserError as error:
        _leave(f"error: {error}", 1)
    except OSError as error:
        if not (message := describe_os_error(error)):
            raise
        _leave(f"error: {message}", 1)


def _leave(message: str, status: int) -> NoReturn:
    """Print the message and exit, also where a Ctrl-C has ended the pipe that would take it."""
    for stream, text in ((sys.stderr, message + "\n"), (sys.stdout, "")):
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            # Else Python's own last flush fails too and replaces the exit status.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def describe_os_error(error: OSError) -> str | None:
    """The plain-words message of an operating system error a user can mend, else None."""
    place = error.filename or os.getcwd()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left on the disk of {place}: free some space (`shardline gc` lists what is "
            "no longer needed) or make `results` a link to a larger disk, then run again; "
            "finished work is kept"
        )
    if error.errno in (errno.EACCES, errno.EROFS):
        return f"cannot write {place}: {error.strerror}"
    return None
