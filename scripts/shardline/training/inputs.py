"""What a training is told by its program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What `train_stage` is told; ``work`` is the folder of this training's key."""

    options: Mapping[str, Any]
    plan: Path
    parquet: Path
    results: Path
    model: Path
    model_manifest: Path
    work: Path
    code: str
    hardware: Hardware
    threads: int
    features: Sequence[Path] = ()
    """Manifests of the vision tower's outputs, where ``options`` has ``features``, their point."""
