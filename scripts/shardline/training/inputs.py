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
    validation: Path | None = None
    """Summary of the plan to validate on, where ``options`` has ``validate``."""
    parent: Path | None = None
    """Result of the stage whose run is extended, where ``options`` has ``continue_from``."""
    named_steps: Sequence[int] = ()
    """Steps whose checkpoints are written and kept, whatever the preset says."""
