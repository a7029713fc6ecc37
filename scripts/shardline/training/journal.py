"""The journal of a training: one line a step, and TensorBoard files as a view of it.

``metrics.jsonl`` has ``{"step", "time", "metrics": {...}}`` for each finished step and is flushed
with each line; a step that was validated has a second one, with those figures. A resumed training
cuts it back to the step it resumes from, and the TensorBoard file is written anew from what is
left, so that no step is there twice.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shardline.files import atomic_file, canonical_json

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Appends steps to ``metrics.jsonl`` and to a TensorBoard file."""

    def __init__(self, folder: Path, resumed: int = 0, again: str | None = None) -> None:
        """Open the journal of a work folder, cut back to ``resumed`` steps.

        Args:
            again: a metric of step ``resumed`` that is going to be added; a line with it is cut.
        """
        lines = [
            line
            for line in read_journal(folder)
            if line["step"] < resumed or (line["step"] == resumed and again not in line["metrics"])
        ]
        with atomic_file(folder / METRICS) as file:
            for line in lines:
                file.write((canonical_json(line) + "\n").encode())
        self._file = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _Board(folder / TENSORBOARD)
        for line in lines:
            self._board.add(line)
        self._board.flush()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the figures of one finished step (1-based)."""
        line = {"step": step, "time": round(time.time(), 3), "metrics": dict(metrics)}
        self._file.write(canonical_json(line) + "\n")
        self._file.flush()
        self._board.add(line)
        self._board.flush()

    def sync(self) -> None:
        """Make the lines survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a work folder's journal; a last line that a kill cut short is left out."""
    file = folder / METRICS
    if not file.exists():
        return
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


class _Board:
    """A TensorBoard event file of scalars, without importing TensorFlow or torch."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._file = open(folder / "events.out.tfevents.0.shardline", "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))

    def add(self, line: Mapping[str, Any]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in sorted(line["metrics"].items())
        ]
        self._write(
            self._event(
                wall_time=line["time"], step=line["step"], summary=self._summary(value=values)
            )
        )

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
