"""A benchmark's figures: printed as a table while they are measured, and kept as a JSON file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from shardline.files import write_json

FOLDER = Path("results/bench")
# A small process between: the kernel counts what a program's parent had to the program, too.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


class Bench(Protocol):
    """A module of this folder."""

    def measure(self) -> dict[str, float]: ...


def show(name: str, modules: Iterable[Bench]) -> None:
    """Measure, print a line a figure, and write ``results/bench/<name>.json``."""
    figures: dict[str, float] = {}
    for module in modules:
        for figure, value in module.measure().items():
            print(f"{figure:36} {value:>14,.4f}", flush=True)
            figures[figure] = value
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / f"{name}.json", figures)


def run(command: Sequence[str], **options: Any) -> tuple[int, int]:
    """A program's exit code, and the most bytes that it had.

    Args:
        options: of `subprocess.run`.
    """
    with tempfile.NamedTemporaryFile("r") as file:
        between = [sys.executable, "-c", BETWEEN, file.name, *command]
        code = subprocess.run(between, check=False, **options).returncode
        return code, int(file.read()) * 1024
