"""The data plane's speed, as a table and in `results/bench/bench-data.json`: `make bench-data`.

Each ratio compares two ways of doing the same work in one run, so that it means the same on a slow
machine and a fast one. On a busy machine it means little: let nothing else run.
"""

from __future__ import annotations

from pathlib import Path

import audit
import clip
import convert

from shardline.files import write_json

OUTPUT = Path("results/bench/bench-data.json")


def main() -> None:
    """Measure, print a line a figure, write them all."""
    figures = {}
    for module in (audit, clip, convert):
        for name, value in module.measure().items():
            print(f"{name:32} {value:>12,.2f}", flush=True)
            figures[name] = value
    write_json(OUTPUT, figures)


if __name__ == "__main__":
    main()
