"""Grounding accuracy: the predicted point lies inside the target's box, borders included.

An answer that cannot be parsed counts as wrong and stays in the denominator. Reported are the micro
accuracy (share of all items) with its Wilson 95 % interval and the macro accuracy (unweighted mean
of the cells, e.g. platform x element kind): published tables use either, rarely saying which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from shardline import registry
from shardline.errors import DataError
from shardline.intervals import wilson
from shardline.samples import Sample, to_unit


def score(
    predictions: Iterable[Mapping[str, Any]],
    samples: Mapping[str, Sample],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judge answers.

    Args:
        predictions: ``{"item": "<sample id>#<box index>", "question", "answer"}``, and ``seen``:
            width and height in pixels of each picture as the model saw it.
        samples: the benchmark's samples by id.
        options: ``task`` (its ``parse`` reads the answers), its ``tokens`` options, ``plugins``.

    Returns:
        The scores, and for each prediction ``{"item", "hit", "point" (unit xy or None), "box"
        (unit xyxy), "cell", "question", "answer"}``, in the order of their items.

    Raises:
        DataError: no predictions, one that is not of this benchmark, or two for one item.
    """
    task = registry.load("tasks", options["task"], options.get("plugins", ()))
    items: dict[str, dict[str, Any]] = {}
    for prediction in predictions:
        name = prediction["item"]
        if name in items:
            raise DataError(f"two predictions for the item {name!r}")
        sample, index = _target(name, samples)
        seen = [tuple(size) for size in prediction.get("seen", ())]
        point = task.parse(prediction["answer"], options["tokens"], seen)
        medium, box = sample.media[0], sample.boxes[index]
        xyxy = to_unit(box.xyxy, sample.frame, medium.width, medium.height)
        items[name] = {
            "item": name,
            "hit": point is not None and inside(point, xyxy),
            "point": point,
            "box": xyxy,
            "cell": sample.meta.get("cell", "") or box.kind,
            "question": prediction["question"],
            "answer": prediction["answer"],
        }
    if not items:
        raise DataError("there are no predictions to score")
    ordered = [items[name] for name in sorted(items)]
    cells = count_cells(ordered)
    hits = sum(item["hit"] for item in ordered)
    low, high = wilson(hits, len(ordered))
    scores = {
        "accuracy": micro(cells),
        "n": len(ordered),
        "low": low,
        "high": high,
        "macro": macro(cells),
        "cells": cells,
        "wrong_format": sum(item["point"] is None for item in ordered),
    }
    return scores, ordered


def inside(point: list[float], xyxy: list[float]) -> bool:
    """Whether a point lies in a box, borders included; both in one frame."""
    return xyxy[0] <= point[0] <= xyxy[2] and xyxy[1] <= point[1] <= xyxy[3]


def count_cells(items: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``{cell: {"accuracy", "n"}}`` in the order of the cells' names."""
    hits: dict[str, list[bool]] = {}
    for item in items:
        hits.setdefault(item["cell"], []).append(item["hit"])
    return {
        cell: {"accuracy": sum(values) / len(values), "n": len(values)}
        for cell, values in sorted(hits.items())
    }


def macro(cells: Mapping[str, Mapping[str, Any]]) -> float:
    """The unweighted mean of the cells' accuracies."""
    return sum(cell["accuracy"] for cell in cells.values()) / len(cells)


def micro(cells: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean of the cells' accuracies weighted by their numbers of items."""
    hits = math.fsum(cell["accuracy"] * cell["n"] for cell in cells.values())
    return hits / sum(cell["n"] for cell in cells.values())


def _target(item: str, samples: Mapping[str, Sample]) -> tuple[Sample, int]:
    name, _, index = item.rpartition("#")
    if name not in samples or not index.isdigit() or int(index) >= len(samples[name].boxes):
        raise DataError(f"the prediction {item!r} is for no item of this benchmark")
    return samples[name], int(index)
