"""What went into a conversion, what was kept of it, and why the rest was not."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shardline.errors import DataError, GateError

EXAMPLES = 5  # reasons that a failed audit names, each with a row
SUMS = (
    *("rows_in", "rows_kept", "rows_rejected"),
    *("elements_in", "elements_kept", "elements_rejected"),
    *("clipped", "points_replaced", "reasons", "cells", "cells_kept"),
)


class Counts:
    """Counts of rows, of their elements, and of reasons and cells."""

    def __init__(self) -> None:
        self.rows_in = self.rows_kept = self.rows_rejected = 0
        self.elements_in = self.elements_kept = self.elements_rejected = 0
        self.clipped = 0
        self.points_replaced = 0
        self.reasons: Counter[str] = Counter()
        self.cells: Counter[str] = Counter()
        self.cells_kept: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # the first reject of each reason

    def add(self, later: Counts) -> None:
        """Add the counts of rows that come after these."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.examples = {**later.examples, **self.examples}

    def to_json(self) -> dict[str, Any]:
        """The counts as the manifest has them."""
        return {
            "rows": {"in": self.rows_in, "kept": self.rows_kept, "rejected": self.rows_rejected},
            "elements": {
                "in": self.elements_in,
                "kept": self.elements_kept,
                "rejected": self.elements_rejected,
            },
            "reasons": dict(self.reasons),
            "clipped": self.clipped,
            "points_replaced": self.points_replaced,
            "cells": dict(self.cells),
            "groups": dict(self.cells_kept),
        }

    def check(self, dataset: str) -> None:
        """See that there was something, and that nothing was lost on the way.

        Raises:
            DataError: no rows, or in is not kept + rejected.
        """
        content = self.to_json()
        if not self.rows_in:
            raise DataError(f"{dataset}: the annotation files have no rows")
        for what in ("rows", "elements"):
            if content[what]["in"] != content[what]["kept"] + content[what]["rejected"]:
                raise DataError(f"{dataset}: {what} do not add up: {content[what]}")

    def gate(self, dataset: str, max_share: float) -> None:
        """See that no more was rejected than the dataset's entry allows.

        Raises:
            GateError: it was; the message has the commonest reasons and some examples.
        """
        content = self.to_json()
        for what in ("rows", "elements"):
            rejected, total = content[what]["rejected"], content[what]["in"]
            if rejected > max_share * total:
                common = self.reasons.most_common(EXAMPLES)
                reasons = ", ".join(f"{reason} {count}" for reason, count in common)
                examples = "".join(f"\n  {self.examples[reason]}" for reason, _ in common)
                raise GateError(
                    f"{dataset}: {rejected} of {total} {what} rejected, over max_reject_share "
                    f"{max_share} ({reasons}):{examples}\nMend the data or the dataset's entry "
                    f"(format, frame), or raise its max_reject_share."
                )
