"""What a filter is given and what it answers.

A filter is one module in ``shardline/filters`` with::

    DEFAULTS: dict             # its options and their defaults
    CONTEXT: tuple[str, ...]   # what it compares with: "earlier" datasets, "benchmarks", or nothing
    def judge(samples: list[Sample], context: Context) -> Verdict

``samples`` are those that the filters before it kept, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardline.samples import Sample


@dataclass(frozen=True)
class Decision:
    """Why a sample is rejected: a short reason to count by, and plain data on the particulars."""

    reason: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The rejected samples by id, and figures for the report."""

    rejected: dict[str, Decision]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Context:
    """What a filter may look at besides the samples it judges.

    ``earlier`` and ``benchmarks`` are names of datasets; ``load`` reads a dataset's converted
    samples; ``phashes`` gives the perceptual hash of every image of samples, by sha256, None for
    flat images; ``raw`` has a folder of raw data a dataset.
    """

    dataset: str
    options: dict[str, Any]
    earlier: list[str]
    benchmarks: list[str]
    raw: Path
    load: Callable[[str], list[Sample]]
    phashes: Callable[[Iterable[Sample]], dict[str, int | None]]
