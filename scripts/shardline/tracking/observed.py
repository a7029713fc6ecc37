"""What jobs left for the tracker: journals, results and reports, read without MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shardline.errors import DataError
from shardline.files import read_json, sha256_file

Json = dict[str, Any]
REPORT_FILES = ("index.html", "summary.json", "MODEL_CARD.md")
WATCHED = (
    "checkpoints/*/*/work/*/run.json",
    "checkpoints/*/*/work/*/metrics.jsonl",
    "checkpoints/*/*/result.json",
    "models/*/*/*.json",
    *(f"reports/*/{name}" for name in REPORT_FILES),
)
TAIL = 64  # bytes compared to see that a journal only grew


def file_stamps(results: Path, patterns: Iterable[str]) -> Json:
    """``{path: [bytes, mtime in ns]}`` of the files that match any pattern below ``results``."""
    files: Json = {}
    for pattern in patterns:
        for path in results.glob(pattern):
            status = path.stat()
            files[str(path.relative_to(results))] = [status.st_size, status.st_mtime_ns]
    return files


def watched_files(results: Path) -> Json:
    """The stamps of every file whose change may be news for the tracker."""
    return file_stamps(results, WATCHED)


@dataclass
class Training:
    """One training with one key: its work folder, journal and, once finished, its result."""

    results: Path
    recipe: str
    stage: str
    key: str

    @cached_property
    def journal(self) -> Journal:
        """The training's metrics."""
        return Journal(self.folder / "metrics.jsonl")

    @property
    def name(self) -> str:
        """``<recipe>/<stage>/<key>``."""
        return f"{self.recipe}/{self.stage}/{self.key}"

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.results / "checkpoints" / self.recipe / self.stage / "work" / self.key

    @property
    def run(self) -> Json:
        """What the job wrote at its last start: options, plan, base, code, environment."""
        return read_json(self.folder / "run.json")

    @cached_property
    def started(self) -> float:
        """Seconds since the epoch: of the first journal line, else of ``run.json``."""
        first = self.journal.first_time()
        return (self.folder / "run.json").stat().st_mtime if first is None else first

    def result(self) -> Json | None:
        """The stage's result if this key made it."""
        path = self.results / "checkpoints" / self.recipe / self.stage / "result.json"
        result = read_json(path) if path.is_file() else None
        return result if result and result["key"] == self.key else None

    def export(self, kind: str) -> Json | None:
        """The manifest of an export that was made from this key's result."""
        result = self.results / "checkpoints" / self.recipe / self.stage / "result.json"
        path = self.results / "models" / self.recipe / self.stage / f"{kind}.json"
        if self.result() is None or not path.is_file():
            return None
        manifest = read_json(path)
        return manifest if manifest.get("result_sha256") == sha256_file(result) else None


@dataclass
class Journal:
    """The lines of a ``metrics.jsonl``, read once each while the file grows."""

    path: Path
    _offset: int = 0
    _tail: bytes = b""
    _last_time: float | None = field(default=None)

    @property
    def last_time(self) -> float | None:
        """Seconds since the epoch of the last line read."""
        return self._last_time

    def first_time(self) -> float | None:
        """Seconds since the epoch of the first line; None for no line."""
        if not self.path.is_file():
            return None
        with open(self.path, "rb") as file:
            line = file.readline()
        return float(_parse(self.path, line)["time"]) if line.endswith(b"\n") else None

    def new_rows(self) -> Iterator[Json]:
        """Whole lines not read before; all lines again after a resume cut the journal back."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            file.seek(self._offset - len(self._tail))
            if file.read(len(self._tail)) != self._tail:
                self._offset, self._tail = 0, b""
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                row = _parse(self.path, line)
                self._offset += len(line)
                self._tail = (self._tail + line)[-TAIL:]
                self._last_time = float(row["time"])
                yield row


def _parse(path: Path, line: bytes) -> Json:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def trainings(results: Path, known: dict[str, Training]) -> list[Training]:
    """All trainings with a work folder, oldest first; those in ``known`` are taken from there."""
    found = []
    for path in results.glob("checkpoints/*/*/work/*/run.json"):
        recipe, stage, _, key = path.parent.relative_to(results / "checkpoints").parts
        name = f"{recipe}/{stage}/{key}"
        if name not in known:
            known[name] = Training(results, recipe, stage, key)
        found.append(known[name])
    return sorted(found, key=lambda training: (training.started, training.name))


def reports(results: Path) -> dict[str, Json]:
    """``{recipe: summary}`` of every report."""
    paths = sorted(results.glob("reports/*/summary.json"))
    return {path.parent.name: read_json(path) for path in paths}
