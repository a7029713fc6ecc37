"""What a finished training leaves: ``final/`` and, written last, ``final.json`` with the result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError, DataError
from shardline.files import file_entry, read_json, sha256_file, write_json

FINAL = "final"
RECORD = "final.json"
UNFINISHED = "final.unfinished"
TRAINED = "trained.safetensors"
"""In a checkpoint: all trained tensors, by the names of their parameters."""
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


def kept_checkpoint(
    result_file: Path, result: Mapping[str, Any], chosen: str, key: str = "export_from"
) -> Path:
    """The folder of a checkpoint that a finished training has kept.

    Args:
        chosen: ``last``, ``best`` or ``step:<n>``, under ``key`` in the config.

    Raises:
        ConfigError: that step was not kept; the message says which were.
        DataError: its weights are gone, or not those of the result.
    """
    kept = {entry["step"]: entry["sha256"] for entry in result.get("checkpoints", ())}
    name = f"{result['recipe']}/{result['name']}"
    if chosen == "best" and not result.get("best"):
        raise ConfigError(f"{key} = 'best': {name} was trained without `validate`")
    step = {"last": result["steps"], "best": (result.get("best") or {}).get("step")}.get(chosen)
    step = int(chosen.removeprefix("step:")) if step is None else step
    if step not in kept:
        raise ConfigError(
            f"{key} = {chosen!r}: the checkpoint of step {step} of {name} was not kept; kept are: "
            f"{', '.join(map(str, kept)) or 'none'} (the hardware preset's keep_checkpoints says "
            "how many)"
        )
    folder = result_file.parent / "work" / result["key"] / f"checkpoint-{step}"
    file = folder / TRAINED
    if not file.is_file() or sha256_file(file) != kept[step]:
        raise DataError(f"{file}: gone, or not what {result_file} names; train {name} again")
    return folder
