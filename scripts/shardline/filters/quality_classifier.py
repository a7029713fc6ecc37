"""Keep what a classifier, trained here on labelled images, takes for good.

A sample stays if each of its images has at least the ``threshold``: one bad picture is enough to
spoil it. Samples without images are not judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shardline.classifier.options import DEFAULTS as CLASSIFIER
from shardline.decisions import Context, Decision, Verdict
from shardline.errors import ConfigError
from shardline.figures import spread
from shardline.samples import Samples
from shardline.scoring import images_of

DEFAULTS = {"threshold": 0.5, **CLASSIFIER}
CONTEXT = ()
BARS = 20
PERCENTILES = (10, 25, 50, 75, 90)


def check(options: dict[str, Any]) -> None:
    """See that the threshold is a probability; the scorer checks the other options."""
    if not 0 <= options["threshold"] <= 1:
        raise ConfigError(f"threshold: {options['threshold']!r}; allowed: a number from 0 to 1")


def scorer(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The classifier, with all options but the threshold: that changes no score."""
    return "classifier", {key: options[key] for key in CLASSIFIER}


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject as ``low_quality``, with the worst image of the sample in the detail."""
    threshold = context.options["threshold"]
    scores = {sha256: context.scores[sha256]["score"] for sha256 in images_of(samples)}
    rejected = {}
    without = 0
    for sample in samples:
        images = [medium for medium in sample.media if medium.kind == "image"]
        if not images:
            without += 1
            continue
        worst = min(images, key=lambda medium: scores[medium.sha256])
        if scores[worst.sha256] < threshold:
            detail = {"score": scores[worst.sha256], "image": worst.path}
            rejected[sample.id] = Decision("low_quality", detail)
    return Verdict(rejected, _figures(list(scores.values()), threshold, without))


def _figures(scores: list[float], threshold: float, without: int) -> dict[str, Any]:
    good = sum(score >= threshold for score in scores)
    counts, _ = np.histogram(scores, BARS, (0.0, 1.0))
    percentiles = np.percentile(scores, PERCENTILES).tolist() if scores else []
    return {
        "images": {"good": good, "bad": len(scores) - good},
        "samples_without_images": without,
        "confidence": {
            **spread(scores),
            "mean": float(np.mean(scores)) if scores else None,
            "percentiles": dict(zip(map(str, PERCENTILES), percentiles, strict=False)),
        },
        "histogram": {"low": 0.0, "high": 1.0, "counts": counts.tolist()},
    }
