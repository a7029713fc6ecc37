"""Scores of images by name of a scorer, each content scored once.

A scorer is one module in ``shardline/scorers`` with::

    def score(files: Sequence[Path], workers: Workers) -> Iterable[float]

which yields a finite number for each image file, in order; more is better. A score depends on the
file's bytes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from shardline import registry
from shardline.errors import DataError
from shardline.parallel import Workers


class ImageScores:
    """The scores known so far, by scorer and sha256 of the image file."""

    def __init__(self, workers: Workers, plugins: Sequence[str] = ()) -> None:
        self.workers = workers
        self.plugins = plugins
        self.scores: dict[str, dict[str, float]] = {}

    def of(self, scorer: str, files: Sequence[tuple[str, Path]]) -> dict[str, float]:
        """Scores of (sha256, path) files by sha256; only content that is new is read.

        Raises:
            ConfigError: no such scorer.
            DataError: a file that is no image any more, or a score that is no finite number.
        """
        module = registry.load("scorers", scorer, self.plugins)
        known = self.scores.setdefault(scorer, {})
        new = {sha256: path for sha256, path in files if sha256 not in known}
        found = module.score(list(new.values()), self.workers)
        for (sha256, path), value in zip(new.items(), found, strict=True):
            if not math.isfinite(value):
                raise DataError(f"{path}: scorer {scorer} gives {value}, which cannot be compared")
            known[sha256] = float(value)
        return {sha256: known[sha256] for sha256, _ in files}
