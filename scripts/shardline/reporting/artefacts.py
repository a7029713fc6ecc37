"""Reading what the stages left under ``results/``, where any file may still be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardline.files import read_json, read_jsonl

Json = dict[str, Any]


class Artefacts:
    """The files under one ``results`` folder; names are relative to it.

    A file that is not there reads as None or as no rows: a report says so in a line. A file that
    is there but broken is a `DataError`.
    """

    def __init__(self, results: Path) -> None:
        self.results = results

    def path(self, name: str) -> Path:
        """The path of a file under ``results``."""
        return self.results / name

    def json(self, name: str) -> Json | None:
        """A JSON file's object."""
        path = self.path(name)
        return read_json(path) if path.is_file() else None

    def rows(self, name: str) -> list[Json]:
        """All rows of a JSON-lines file."""
        path = self.path(name)
        return list(read_jsonl(path)) if path.is_file() else []

    def seconds(self, *patterns: str) -> float | None:
        """Wall seconds of the jobs whose benchmark files match, in sum; None where there is none.

        Args:
            patterns: like ``convert_dataset/<dataset>``, below ``results/benchmarks`` and without
                the ending; ``*`` stands for one wildcard.
        """
        files = sorted(
            {
                file
                for pattern in patterns
                for file in (self.results / "benchmarks").glob(f"{pattern}.jsonl")
            }
        )
        times = [row["s"] for file in files for row in list(read_jsonl(file))[-1:]]
        return round(sum(times), 1) if times else None
