"""What a filter is given and what it answers.

A filter is one module in ``shardline/filters`` with::

    DEFAULTS: dict             # its options and their defaults
    CONTEXT: tuple[str, ...]   # what it compares with: "earlier" datasets, "benchmarks", or nothing
    def judge(samples: Samples, context: Context) -> Verdict
    def check(options: dict)   # optional: ConfigError for values that make no sense, before any run
    def scorer(options: dict) -> tuple[str, dict]
                               # optional: the module of ``shardline/scorers`` whose scores it
                               # judges by, and that one's options

``samples`` are those that the filters before it kept, in order. Those of a large dataset are read
from disk whenever they are gone through, so no list is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError
from shardline.samples import Sample, Samples


@dataclass(frozen=True)
class Decision:
    """Why a sample is rejected: a short reason to count by, and plain data on the particulars."""

    reason: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The rejected samples by id, figures for the report, and what later runs are to go by.

    ``record`` is for what a filter finds out once, like a threshold from a sample of the images:
    `Context.recorded` gives it to the next run of the same dataset, chain and options, so that a
    dataset that grew is judged as before.
    """

    rejected: dict[str, Decision]
    figures: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Context:
    """What a filter may look at besides the samples it judges.

    ``earlier`` and ``benchmarks`` are names of datasets; ``load`` reads a dataset's converted
    samples; ``phashes`` gives the perceptual hash of every image of samples, by sha256 in order of
    first appearance, None for flat images; ``scores`` has the scores of every image of the dataset,
    by sha256, from the filter's scorer; ``raw`` has a folder of raw data a dataset; ``recorded`` is
    what the filter wrote down in an earlier run (`Verdict.record`), empty in the first.
    """

    dataset: str
    options: dict[str, Any]
    earlier: list[str]
    benchmarks: list[str]
    raw: Path
    load: Callable[[str], Samples]
    phashes: Callable[[Iterable[Sample]], dict[str, int | None]]
    scores: Mapping[str, Mapping[str, float]]
    recorded: Mapping[str, Any] = field(default_factory=dict)


def check_filter(module: Any, options: dict[str, Any]) -> None:
    """Let a filter check its options, if it wants to.

    Raises:
        ConfigError: they make no sense; the message begins with the option's name.
    """
    if hasattr(module, "check"):
        module.check(options)


def check_limits(options: dict[str, Any], least: str, most: str) -> None:
    """See that of two options the minimum is not above the maximum, where 0 is none.

    Raises:
        ConfigError: it is.
    """
    if options[most] and options[least] > options[most]:
        raise ConfigError(
            f"{least}: {options[least]!r}; allowed: up to {most}, which is {options[most]!r}"
        )
