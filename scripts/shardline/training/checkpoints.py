"""Checkpoints that are whole or not there.

``checkpoint-<step>/complete.json`` lists every file with its size and hash and is written last.
A folder without it, or whose files differ from it, is not a checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from shardline.errors import ConfigError
from shardline.files import file_entry, read_json, sha256_file, sync_folder, write_json

COMPLETE = "complete.json"
PARTS = ("ranks", "zero_stage")
"""Facts of a checkpoint with an optimiser in parts."""
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path, **facts: Any) -> dict[str, Any]:
    """Declare all files in ``folder`` complete: flush them, then write ``complete.json``.

    Returns:
        What was written: ``{**facts, "files": [{"name", "bytes", "sha256"}]}``.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != COMPLETE)
    for file in files:
        _sync(file)
    for inner in {file.parent for file in files}:
        sync_folder(inner)
    entries = [file_entry(file, file.relative_to(folder).as_posix()) for file in files]
    complete = {**facts, "files": entries}
    write_json(folder / COMPLETE, complete)
    sync_folder(folder.parent)
    return complete


def sealed(folder: Path) -> dict[str, Any] | None:
    """What `seal` wrote, if it is there and every file still has its size and hash."""
    if not (folder / COMPLETE).is_file():
        return None
    complete = read_json(folder / COMPLETE)
    for entry in complete["files"]:
        file = folder / entry["name"]
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return None
        if sha256_file(file) != entry["sha256"]:
            return None
    return complete


def check_parts(folder: Path, parts: Mapping[str, Any]) -> None:
    """See that an optimiser's state, which ranks with DeepSpeed save in parts, fits these ranks.

    Args:
        folder: a sealed checkpoint, to train on from.
        parts: what is sealed with a checkpoint of ours; empty without DeepSpeed.

    Raises:
        ConfigError: it is of other ranks.
    """
    complete = read_json(folder / COMPLETE)
    then = {name: complete[name] for name in PARTS if name in complete}
    if then != parts:
        raise ConfigError(
            f"{folder} was written by {_in_words(then)}, and the hardware preset has "
            f"{_in_words(parts)}: its optimiser is in parts that only the same can take up. Go on "
            f"with the preset that began it, or remove {folder.parent} to begin anew"
        )


def _in_words(parts: Mapping[str, Any]) -> str:
    if not parts:
        return "ranks without DeepSpeed"
    return f"{parts['ranks']} rank(s) with ZeRO stage {parts['zero_stage']}"


def newest(work: Path, most: int) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint of at most ``most`` steps.

    Those that are not whole, or later, are removed.
    """
    for step, folder in sorted(_folders(work), reverse=True):
        if step <= most and sealed(folder):
            return step, folder
        _remove(folder)
    return None


def prune(
    work: Path, keep: int | Literal["all"] = 2, every: int = 1, named: Collection[int] = ()
) -> None:
    """Remove checkpoints, so that which are left does not depend on where a run was interrupted.

    Left are those ``named``, and the newest ``keep`` of the newest one and those of the steps that
    ``every`` divides.
    """
    found = dict(sorted(_folders(work), reverse=True))
    newest = max(found, default=None)
    regular = [step for step in found if step == newest or step % every == 0]
    kept = {*named, *regular[: None if keep == "all" else keep]}
    for step in found.keys() - kept:
        _remove(found[step])


def kept(work: Path, file: str) -> list[dict[str, Any]]:
    """``{"step", "sha256"}`` of each whole checkpoint that has ``file``, whose hash it is."""
    entries = []
    for step, folder in sorted(_folders(work)):
        if (folder / COMPLETE).is_file():
            hashes = {one["name"]: one["sha256"] for one in read_json(folder / COMPLETE)["files"]}
            entries += [{"step": step, "sha256": hashes[file]}] if file in hashes else []
    return entries


def validations(folder: Path) -> dict[int, float]:
    """The validation losses by step that a checkpoint's run had, as `seal` was told them."""
    return dict(read_json(folder / COMPLETE)["validations"])


def discard(work: Path, step: int) -> None:
    """Remove a step's checkpoint unless it is whole."""
    folder = work / f"checkpoint-{step}"
    if folder.is_dir() and not (folder / COMPLETE).is_file():
        _remove(folder)


def step_of(folder: Path) -> int:
    """The number of steps that a ``checkpoint-<step>`` folder has behind it."""
    return int(_NAME.fullmatch(folder.name)[1])


def _folders(work: Path) -> list[tuple[int, Path]]:
    found = []
    for folder in work.glob("checkpoint-*"):
        if _NAME.fullmatch(folder.name) and folder.is_dir():
            found.append((step_of(folder), folder))
    return found


def _remove(folder: Path) -> None:
    # The seal first: a kill in the middle must not leave what looks whole.
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
