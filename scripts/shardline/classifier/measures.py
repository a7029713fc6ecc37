"""How well a classifier does on images whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
)

POINTS = 100  # of a precision-recall curve, at most


def measure(scores: Sequence[float], targets: Sequence[int]) -> dict[str, Any] | None:
    """Accuracy, confusion matrix and precision-recall curve; None of no images.

    Precision, recall and F1 are averages over the classes, weighted by their images, for the
    threshold 0.5. The matrix has a row a true class, bad first. The curve is of the good class; it
    and the average precision are None where there is only one class.

    Args:
        scores: the probability that each image is good.
        targets: 1 for good images, 0 for bad ones.
    """
    if not len(targets):
        return None
    said = [int(score >= 0.5) for score in scores]
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, said, average="weighted", zero_division=0
    )
    both = len(set(targets)) == 2
    return {
        "images": len(targets),
        "accuracy": sum(a == b for a, b in zip(said, targets, strict=True)) / len(targets),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "confusion": confusion_matrix(targets, said, labels=[0, 1]).tolist(),
        "average_precision": float(average_precision_score(targets, scores)) if both else None,
        "curve": _curve(scores, targets) if both else None,
    }


def _curve(scores: Sequence[float], targets: Sequence[int]) -> list[dict[str, float]]:
    """Precision and recall where every image of at least ``threshold`` is taken for good."""
    precision, recall, thresholds = precision_recall_curve(targets, scores)
    places = np.linspace(0, len(thresholds) - 1, min(POINTS, len(thresholds))).round().astype(int)
    return [
        {
            "threshold": float(thresholds[place]),
            "precision": float(precision[place]),
            "recall": float(recall[place]),
        }
        for place in places
    ]
