"""The key of a training's work folder: everything that shapes its result, and no hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.files import sha256_file, short_hash

DIGITS = 12


def work_key(
    options: Mapping[str, Any],
    plan: Path,
    model: Path,
    code: str,
    features: Sequence[Path] = (),
    validation: Sequence[Path] = (),
    parent: Sequence[Path] = (),
) -> str:
    """A short name that equals another's exactly if the two trainings are the same.

    Args:
        options: the stage's slice of config.
        plan: the plan's JSON summary, which has the hash of its table.
        model: manifest of the weights that the stage starts from.
        code: fingerprint of the training program.
        features: manifests of what is read in place of pictures.
        validation: summary of the plan to validate on, if any.
        parent: result of the stage whose run is extended, if any.
    """
    parts = {
        "options": options,
        "plan": sha256_file(plan),
        "model": sha256_file(model),
        "code": code,
    }
    others = {"features": features, "validation": validation, "parent": parent}
    for name, files in others.items():
        if files:
            parts[name] = [sha256_file(file) for file in files]
    return short_hash(parts, DIGITS)
