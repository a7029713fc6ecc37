"""Series of shards: in one tar, every sample has the same members.

Common readers of WebDataset tars take the first sample's members for everybody's and fail on, or
silently drop, the others; so samples with other kinds of media go to a series of their own.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import PurePosixPath

from shardline.samples import Sample

EXTENSION = re.compile(r"\.([a-z0-9]{1,5})")


def extensions(sample: Sample) -> list[str]:
    """The file extension of each medium, in lower case; ``bin`` where it has no usual one."""
    suffixes = (PurePosixPath(medium.path).suffix.lower() for medium in sample.media)
    return [match[1] if (match := EXTENSION.fullmatch(suffix)) else "bin" for suffix in suffixes]


def series_of(sample: Sample) -> str:
    """Name of the series for a sample's media: ``png``, ``jpg-2png``, ``none``."""
    runs = [(name, len(list(run))) for name, run in groupby(extensions(sample))]
    return "-".join(f"{count}{name}" if count > 1 else name for name, count in runs) or "none"
