"""Reject samples whose pictures a CLIP model finds nearer to bad prompts than a threshold allows.

``mode`` says where the threshold comes from. ``automatic``: the percentile ``percentile`` of the
scores of ``sample_size`` images drawn by ``seed`` (25: about three quarters stay). It is found once
and kept when the dataset grows; another ``seed`` asks for a new one. ``fixed``: ``threshold``,
which means nothing for another model or other prompts. ``analyse``: everything stays, the report
recommends thresholds; with ``share: 0.01`` it scores one image in a hundred, for a quick look.

A sample is as good as the worst of its images: it stays if all of them score at least the
threshold. Samples without images are not judged. Files that cannot be read were rejected by the
audit, so no statistic knows them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np

from shardline.decisions import Context, Decision, Verdict
from shardline.errors import ConfigError
from shardline.files import sha256_bytes
from shardline.samples import Samples
from shardline.scorers import clip_quality as clip_scorer
from shardline.scoring import drawn_share, images_of

DEFAULTS = {
    **clip_scorer.DEFAULTS,
    "mode": "automatic",
    "threshold": None,
    "percentile": 25.0,
    "sample_size": 500,
    "seed": 0,
}
CONTEXT = ()
MODES = ("automatic", "fixed", "analyse")
RECOMMENDED = {"conservative": 10, "medium": 25, "balanced": 50, "aggressive": 75, "strict": 90}


def scorer(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The scorer, with the model and the prompts."""
    return "clip_quality", {name: options[name] for name in clip_scorer.DEFAULTS}


def check(options: dict[str, Any]) -> None:
    """See that the threshold goes with the mode, and the sample is one; the scorer checks the rest.

    Raises:
        ConfigError: it does not, or is none.
    """
    mode, threshold = options["mode"], options["threshold"]
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if mode not in MODES:
        raise ConfigError(f"mode: {mode!r}; allowed: {', '.join(MODES)}")
    if mode == "fixed" and not (number and np.isfinite(threshold)):
        raise ConfigError(f"threshold: {threshold!r}; allowed with mode fixed: a number")
    if mode != "fixed" and threshold is not None:
        raise ConfigError(f"threshold: {threshold!r}; allowed with mode fixed alone, not {mode}")
    if options["share"] != 1 and mode != "analyse":
        raise ConfigError(f"share: {options['share']!r}; allowed with mode {mode}: 1.0")
    if not 0 <= options["percentile"] <= 100:
        raise ConfigError(f"percentile: {options['percentile']!r}; allowed: 0 to 100")
    if options["sample_size"] < 1:
        raise ConfigError(f"sample_size: {options['sample_size']!r}; allowed: 1 and more")


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject samples with an image below the threshold, as ``low_quality``."""
    options = context.options
    images = drawn_share(images_of(samples), options["share"])
    scores = {sha256: context.scores[sha256]["score"] for sha256 in images}
    drawn = context.recorded or _draw(scores, context)
    threshold = {
        "automatic": drawn.get("threshold"),
        "fixed": options["threshold"],
        "analyse": None,
    }[options["mode"]]
    rejected = {}
    judged = 0
    for sample in samples:
        own = [medium for medium in sample.media if medium.kind == "image"]
        judged += bool(own)
        if not own or threshold is None:
            continue
        score, path = min((scores[medium.sha256], medium.path) for medium in own)
        if score < threshold:
            detail = {"path": path, "score": score, "threshold": threshold}
            rejected[sample.id] = Decision("low_quality", detail)
    accepted = sum(threshold is None or score >= threshold for score in scores.values())
    figures = {
        "threshold": threshold,
        "total_images": len(scores),
        "accepted_images": accepted,
        "rejected_images": len(scores) - accepted,
        "acceptance_rate": accepted / len(scores) if scores else None,
        "statistics": drawn.get("statistics"),
        "recommended": drawn.get("recommended"),
        "sample": {"images": drawn.get("images", 0), "of": drawn.get("of", 0)},
        "samples_without_images": len(samples) - judged,
    }
    return Verdict(rejected, figures, record=dict(drawn))


def _draw(scores: Mapping[str, float], context: Context) -> dict[str, Any]:
    """What a sample of the images says: statistics, percentiles and a threshold; {} of no images.

    An image is drawn by a hash of it and the seed, so that more images move the sample little.
    """
    options = context.options

    def lot(sha256: str) -> str:
        return sha256_bytes(f"{options['seed']}:{context.dataset}:{sha256}".encode())

    names = heapq.nsmallest(options["sample_size"], scores, key=lot)
    if not names:
        return {}
    values = np.array([scores[name] for name in names])
    percentiles = {p: float(np.percentile(values, p)) for p in RECOMMENDED.values()}
    return {
        "images": len(names),
        "of": len(scores),
        "threshold": float(np.percentile(values, options["percentile"])),
        "statistics": {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "median": float(np.median(values)),
            **{f"percentile_{p}": value for p, value in percentiles.items()},
        },
        "recommended": {name: percentiles[p] for name, p in RECOMMENDED.items()},
    }
