"""A benchmark's figures: printed as a table while they are measured, and kept as a JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from shardline.files import write_json

FOLDER = Path("results/bench")


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
