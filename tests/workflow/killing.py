"""Killing real runs at chosen moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from workflow.workspace import Workspace, kill_group


def running(workspace: Workspace, program: str) -> list[int]:
    """Process ids of a program that runs in a workspace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if f"scripts/{program}.py".encode() not in words or b"bash" in words[0]:
                continue
            if (process / "cwd").resolve() == workspace.folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def kill_next(
    workspace: Workspace,
    target: str,
    log: Path,
    remaining: list[tuple[str, str]],
    chance: random.Random,
    may_die: Callable[[str], bool] = lambda program: True,
    longest: float = 0.4,
) -> str:
    """Start a run and kill at the first program of those that remain; what was printed.

    Args:
        remaining: what is killed (``job``, ``controller`` or ``group``) while which program runs;
            loses the entry that was carried out.
        may_die: whether a program that runs may be killed already.
        longest: seconds that it may go on before it is killed, at most.
    """
    run = workspace.start(log, target)
    found: list[tuple[str, str]] = []
    while not found and run.poll() is None:
        found = [kill for kill in remaining if running(workspace, kill[1]) and may_die(kill[1])]
        time.sleep(0.05)
    assert found, f"did not run: {remaining}\n{log.read_text()[-4000:]}"
    what, program = found[0]
    remaining.remove(found[0])
    time.sleep(chance.random() * longest)
    if what == "job":
        for pid in running(workspace, program):
            os.kill(pid, signal.SIGKILL)
    elif what == "controller":
        run.kill()
    else:
        kill_group(run)
    run.wait()
    return log.read_text()
