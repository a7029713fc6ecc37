"""Fetching a dataset or model from its source, and locking what came."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from shardline import folders, locks, registry
from shardline.errors import ConfigError, DataError
from shardline.files import atomic_file, read_json, sha256_file

MOST_NAMED = 5  # changed files in one message


def fetch(
    *,
    name: str,
    kind: str,
    options: dict[str, Any],
    raw: Path,
    lock: Path,
    files: Path,
    shared: Path | None = None,
) -> dict[str, Any]:
    """Make ``raw`` the data of a source and lock it; the lock is written last.

    What was fetched before and is whole is not fetched again, and what a remote source gives under
    an unchanged name must be what it gave before.

    Args:
        name: the dataset's or model's name.
        kind: ``dataset`` or ``model``.
        options: ``source`` (``scheme:place``), and optionally ``source_options`` and ``plugins``;
            ``adapter`` where the model is a LoRA adapter.
        raw: where the data goes.
        lock: where the lock goes.
        files: where the list of files goes.
        shared: a folder like ``results/raw`` of other projects, which may be read-only: what it has
            of this source is linked.

    Returns:
        The lock.

    Raises:
        ConfigError: the source string is wrong.
        DataError: the data cannot be had or has changed, or a model has no safetensors.
    """
    lock.unlink(missing_ok=True)
    wanted = {"source": options["source"], "options": options.get("source_options", {})}
    if shared and (content := _adopt(shared, wanted, kind, raw, lock, files)):
        return content
    try:
        revision = _get(wanted, kind, raw, options.get("plugins", []))
    except (ConfigError, DataError) as error:
        raise type(error)(f"{kind} {name}: {error}") from None
    if kind == "model":
        _check_model(name, raw, options)
    return locks.write_lock(raw, lock, files, name=name, kind=kind, revision=revision, **wanted)


def _get(wanted: dict[str, Any], kind: str, raw: Path, plugins: list[str]) -> str:
    """Make ``raw`` the data and return its revision."""
    scheme, colon, place = wanted["source"].partition(":")
    if not colon:
        raise ConfigError(f"source {wanted['source']!r} is not scheme:place")
    place, options = place.removeprefix("//"), wanted["options"]
    source = registry.load("sources", scheme, plugins)
    known = locks.read_known(raw) if getattr(source, "REMOTE", False) else None
    if known and known.source == wanted and not _differences(known, raw):
        if hasattr(source, "confirm"):
            source.confirm(place, options, known, kind=kind)
        return known.revision
    revision = source.fetch(place, raw, options, kind=kind, plugins=plugins)
    if known and known.source == wanted:
        changed = _differences(known, raw)
        if revision != known.revision or changed:
            named = "; ".join(changed[:MOST_NAMED])
            raise DataError(
                f"{wanted['source']} gives other data than before, under the same name: revision "
                f"{known.revision} then, {revision} now{'; ' if named else ''}{named}. Name the "
                f"revision that you want; to take what it gives now, remove {locks.known_of(raw)}"
            )
    return revision


def _differences(known: locks.Known, raw: Path) -> list[str]:
    """How the files below ``raw`` differ from those known; every byte is read."""
    if not raw.is_dir():
        return [f"{raw}: no such folder"]
    present = dict(locks.walk(raw))
    archives = known.source["options"].get("extract", ())
    changed = [f"{path}: new" for path in sorted(set(present) - set(known.files))]
    for path, (size, _, sha256) in known.files.items():
        if path not in present:
            if not locks.is_archive(path, archives):
                changed.append(f"{path}: gone")
        elif present[path] != size:
            changed.append(f"{path}: {present[path]} bytes, {size} before")
        elif sha256_file(raw / path) != sha256:
            changed.append(f"{path}: other content than before")
    return changed


def _adopt(
    shared: Path, wanted: dict[str, Any], kind: str, raw: Path, lock: Path, files: Path
) -> dict[str, Any] | None:
    """Link data that a shared folder has, and copy its lock; None if it has not got it whole."""
    theirs = (shared / "models" if kind == "model" else shared) / raw.name
    their_lock = theirs.with_name(f"{raw.name}.lock.json")
    if not their_lock.is_file():
        return None
    try:
        content = read_json(their_lock)
        if {"source": content["source"], "options": content.get("options", {})} != wanted:
            return None
        locked = {**locks.read_archives(their_lock), **locks.read_files(their_lock)}
        present = dict(locks.walk(theirs)) if theirs.is_dir() else {}
    except (DataError, KeyError) as error:
        print(f"{their_lock} cannot be used: {error}", file=sys.stderr)
        return None
    absent = [path for path in locked if path not in present]
    if any(present[path] != locked[path].bytes for path in present if path in locked) or (
        set(present) - set(locked) or set(absent) - set(locks.read_archives(their_lock))
    ):
        print(f"{theirs} is not what {their_lock} names; it is not used", file=sys.stderr)
        return None
    folders.link(theirs, raw)
    for source, target in ((locks.files_of(their_lock), files), (their_lock, lock)):
        with atomic_file(target) as file:
            file.write(source.read_bytes())
    print(f"linked to {theirs}")
    return content


def _check_model(name: str, raw: Path, options: dict[str, Any]) -> None:
    """A model is a config and weights that load without running code, or an adapter of such."""
    source, pickles = options["source"], options.get("source_options", {}).get("pickles")
    adapter = (raw / "adapter_config.json").is_file()
    if options.get("adapter") and not adapter:
        raise DataError(
            f"model {name}: {raw} has no adapter_config.json: it is no LoRA adapter; a whole model "
            f"is written as {source}"
        )
    if not options.get("adapter") and adapter and not (raw / "config.json").is_file():
        raise DataError(
            f"model {name}: {raw} has an adapter_config.json and no config.json: it is a LoRA "
            f"adapter, not a model; to start a stage from it write init: adapter+{source}"
        )
    if any(raw.glob("global_step*")) and not any(raw.glob("*.safetensors")):
        raise DataError(
            f"model {name}: {raw} is a DeepSpeed checkpoint, each rank's part in a pickle of its "
            "own, which is not loaded; make it one model first, with the script that lies in it: "
            "python zero_to_fp32.py . . --safe_serialization"
        )
    if not any(raw.glob("*config.json")):
        raise DataError(f"model {name}: {raw} has no config.json")
    if not adapter and _generates(raw) and not (raw / "tokenizer.json").is_file():
        raise DataError(
            f"model {name}: {raw} has no tokenizer.json; save the tokenizer and the processor of "
            "its base beside its weights: AutoProcessor.from_pretrained(base).save_pretrained(...)"
        )
    if not pickles and not any(raw.glob("*.safetensors")):
        raise DataError(
            f"model {name}: {raw} has no *.safetensors; pickled weights are not loaded, convert "
            "them to safetensors first, or allow them with `pickles: true`"
        )


def _generates(raw: Path) -> bool:
    """Whether a folder has a model of transformers that answers pictures in words."""
    if not (raw / "config.json").is_file():
        return False
    architectures = read_json(raw / "config.json").get("architectures") or []
    return any(name.endswith("ForConditionalGeneration") for name in architectures)
