"""What a finished training leaves: ``final/`` and, written last, ``final.json`` with the result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.files import file_entry, read_json, sha256_file, write_json

FINAL = "final"
RECORD = "final.json"
UNFINISHED = "final.unfinished"
EXTRA = "tuned.safetensors"
"""In an adapter's folder: base tensors that were trained in full beside it, by their names."""


def finish(work: Path, result: Mapping[str, Any]) -> None:
    """Put the folder ``final.unfinished`` in its place and record the result with its weights."""
    discard(work / FINAL)
    (work / UNFINISHED).rename(work / FINAL)
    weights = [
        file_entry(file, f"work/{work.name}/{FINAL}/{file.name}")
        for file in sorted((work / FINAL).glob("*.safetensors"))
    ]
    write_json(work / RECORD, {**result, "weights": weights})


def discard(folder: Path) -> None:
    """Remove a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def finished(work: Path) -> dict[str, Any] | None:
    """The result of a training that has ended, if its weights are still what they were."""
    if not (work / RECORD).is_file():
        return None
    result = read_json(work / RECORD)
    for entry in result["weights"]:
        file = work.parent.parent / entry["name"]
        if not file.is_file() or sha256_file(file) != entry["sha256"]:
            return None
    return result


def final_folder(result_file: Path, result: Mapping[str, Any]) -> Path:
    """The folder with the weights that a ``result.json`` names."""
    return result_file.parent / "work" / result["key"] / FINAL
