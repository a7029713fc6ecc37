"""The token plane's speed, printed as a table: `make bench-tokens`.

Each ratio compares two ways of doing the same work in one run, so that it means the same on a slow
machine and a fast one. On a busy machine it means little: let nothing else run.
"""

from __future__ import annotations

import codec
import count
import dag
import figures
import load
import plan
import tokenise


def main() -> None:
    """Measure and print, a line a figure."""
    figures.show("bench-tokens", (plan, count, codec, tokenise, load, dag))


if __name__ == "__main__":
    main()
