"""A vision tower that learns from images and videos at once: said, since it is known to hurt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from shardline.token_index import read_index
from shardline.training.tuning import Tune

KINDS = ("images", "videos")


def kinds_of(results: Path, shards: Iterable[Mapping[str, Any]]) -> set[str]:
    """Which of `KINDS` the shards of a plan hold; a video is known by its interval.

    Args:
        shards: as the plan's summary lists them, paths relative to ``results``.
    """
    found: set[str] = set()
    for shard in shards:
        column = read_index(results / shard["index"], ["intervals"])["intervals"]
        videos = np.asarray(pc.list_flatten(column)) > 0
        found |= {KINDS[int(video)] for video in np.unique(videos)}
        if len(found) == len(KINDS):
            break
    return found


def warn_of_mixed_media(
    tune: Tune, results: Path, shards: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Lines for the log: one if the tower is tuned and the plan has both kinds, else none."""
    mode = tune["vision"]["mode"]
    if mode == "frozen" or len(kinds_of(results, shards)) < len(KINDS):
        return []
    return [
        f"warning: tune.vision is {mode} and the plan has images and videos; the authors of the "
        "Qwen-VL models advise to keep the vision tower frozen with mixed data (tune.vision: "
        "frozen), or to train it in a stage of images alone"
    ]
