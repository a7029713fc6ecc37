"""Plain text for the terminal: aligned columns and wrapped hints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

GAP = "  "


def table(rows: Iterable[Sequence[object]], right: Sequence[int] = (), indent: str = "") -> str:
    """Rows of cells in aligned columns.

    Args:
        right: numbers of the columns to align at their right end.
        indent: what each line starts with.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(row[column]) for row in cells if column < len(row))
        for column in range(max(map(len, cells), default=0))
    ]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append((indent + GAP.join(padded)).rstrip())
    return "\n".join(lines)


def show_json(value: Any) -> None:
    """Print plain data as indented JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def printable(text: str) -> str:
    """Text from data without control characters, which could rewrite the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text))
