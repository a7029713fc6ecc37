"""Fetching a dataset or model from its source, and locking what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardline import locks, registry
from shardline.errors import ConfigError, DataError


def fetch(
    *, name: str, kind: str, options: dict[str, Any], raw: Path, lock: Path, files: Path
) -> dict[str, Any]:
    """Make ``raw`` the data of a source and lock it; the lock is written last.

    Args:
        name: the dataset's or model's name.
        kind: ``dataset`` or ``model``.
        options: ``source`` (``scheme:place``), and optionally ``source_options`` and ``plugins``.
        raw: where the data goes.
        lock: where the lock goes.
        files: where the list of files goes.

    Returns:
        The lock.

    Raises:
        ConfigError: the source string is wrong.
        DataError: the data cannot be had, or a model has no safetensors.
    """
    lock.unlink(missing_ok=True)
    scheme, colon, place = options["source"].partition(":")
    if not colon:
        raise ConfigError(f"{kind} {name}: source {options['source']!r} is not scheme:place")
    plugins = options.get("plugins", [])
    source = registry.load("sources", scheme, plugins)
    try:
        revision = source.fetch(
            place.removeprefix("//"),
            raw,
            options.get("source_options", {}),
            kind=kind,
            plugins=plugins,
        )
    except (ConfigError, DataError) as error:
        raise type(error)(f"{kind} {name}: {error}") from None
    if kind == "model":
        _check_model(name, raw)
    return locks.write_lock(
        raw,
        lock,
        files,
        name=name,
        kind=kind,
        source=options["source"],
        revision=revision,
    )


def _check_model(name: str, raw: Path) -> None:
    """A model is a config and weights that load without running code."""
    if not (raw / "config.json").is_file():
        raise DataError(f"model {name}: {raw} has no config.json")
    if not any(raw.glob("*.safetensors")):
        raise DataError(
            f"model {name}: {raw} has no *.safetensors; pickled weights are not loaded, convert "
            "them to safetensors first"
        )
