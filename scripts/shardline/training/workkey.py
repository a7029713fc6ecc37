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
) -> str:
    """A short name that equals another's exactly if the two trainings are the same.

    Args:
        options: the stage's slice of config.
        plan: the plan's JSON summary, which has the hash of its table.
        model: manifest of the weights that the stage starts from.
        code: fingerprint of the training program.
        features: manifests of what is read in place of pictures.
    """
    parts = {
        "options": options,
        "plan": sha256_file(plan),
        "model": sha256_file(model),
        "code": code,
    }
    if features:
        parts["features"] = [sha256_file(manifest) for manifest in features]
    return short_hash(parts, DIGITS)
