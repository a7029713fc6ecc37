"""The data plane's speed, as a table and in `results/bench/bench-data.json`: `make bench-data`.

Each ratio compares two ways of doing the same work in one run, so that it means the same on a slow
machine and a fast one. On a busy machine it means little: let nothing else run.
"""

from __future__ import annotations

import audit
import clip
import convert
import figures


def main() -> None:
    """Measure and print, a line a figure."""
    figures.show("bench-data", (audit, clip, convert))


if __name__ == "__main__":
    main()
