"""Learning curves from the journals that training jobs keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from shardline.reporting.artefacts import Artefacts, Json
from shardline.reporting.charts import Series, line_chart, moving_mean

VALIDATION = "validation/loss"
RATE = "lr/"  # and a module
NO_CHART = Markup("")
RATE_LOOKS = ("line", "second", "third")


@dataclass
class Curves:
    """The charts of one training stage; ``problem`` says why there are none."""

    stage: str
    loss: Markup = NO_CHART
    rate: Markup = NO_CHART
    window: int = 1
    validated: bool = False
    rates: tuple[str, ...] = ()
    problem: str = ""


def read_journal(recipe: str, stage: str, key: str, artefacts: Artefacts) -> dict[str, Json]:
    """``{metric: {step: value}}`` of a training's journal; of a repeated step the last."""
    metrics: dict[str, Json] = {}
    for row in artefacts.rows(f"checkpoints/{recipe}/{stage}/work/{key}/metrics.jsonl"):
        for name, value in row["metrics"].items():
            metrics.setdefault(name, {})[row["step"]] = value
    return metrics


def stage_curves(recipe: str, stage: str, key: str | None, artefacts: Artefacts) -> Curves:
    """Loss and learning rate over the optimiser steps of a stage."""
    if not key:
        return Curves(stage, problem="this stage has no result yet")
    metrics = read_journal(recipe, stage, key, artefacts)
    if "loss" not in metrics:
        return Curves(stage, problem="the stage's journal is gone, so there is no curve to draw")
    loss = {step: value for step, value in sorted(metrics["loss"].items()) if math.isfinite(value)}
    steps, losses = list(loss), list(loss.values())
    window = max(1, len(steps) // 30)
    lines = [Series("loss of a step", steps, losses, "faint" if window > 1 else "line")]
    if window > 1:
        lines.append(Series(f"mean of {window} steps", steps, moving_mean(losses, window)))
    if validation := sorted(metrics.get(VALIDATION, {}).items()):
        lines.append(Series("validation loss", *zip(*validation, strict=True), look="second"))
    rates = {name: values for name, values in sorted(metrics.items()) if name.startswith(RATE)}
    distinct = {tuple(sorted(values.items())): name for name, values in reversed(rates.items())}
    rate_lines = [
        Series(name, sorted(rates[name]), [rates[name][s] for s in sorted(rates[name])], look)
        for name, look in zip(sorted(distinct.values()), RATE_LOOKS, strict=False)
    ]
    return Curves(
        stage,
        loss=line_chart(lines, "optimiser step", "loss (nats a token)"),
        rate=line_chart(rate_lines, "optimiser step", "learning rate"),
        window=window,
        validated=bool(validation),
        rates=tuple(line.name for line in rate_lines),
    )
