"""What a user may write to watch a training, to choose a checkpoint of it, or to extend it."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import Field

from shardline.config.strict import Name, Strict

HELD_OUT = "held_out"
TAKEN_OVER = ("method", "init", "tune", "optimizer", "precision")
"""What a stage with `continue_from` has from its parent, unless it says the same itself."""

ExportFrom = Annotated[str, Field(pattern=r"^(last|best|step:[1-9][0-9]*)$")]


class EarlyStop(Strict):
    """End a training whose validation loss no longer falls."""

    patience: int = Field(gt=0, description="validations in a row without a lower loss")
    min_delta: float = Field(
        default=0.0, ge=0, description="a loss is lower if it is so by more than this (nats)"
    )


class Validate(Strict):
    """The loss on samples that are not trained on, every so many steps."""

    every: int = Field(gt=0, description="steps between two validations")
    data: str = Field(
        default=HELD_OUT,
        description="held_out: what the recipe's `split` holds out; or a dataset, `name#100` for a "
        "seeded hundred samples of it",
    )
    early_stop: EarlyStop | None = None


class ContinueFrom(Strict):
    """The run that a stage extends, with its weights and the state of its optimiser."""

    stage: Name
    step: Annotated[int, Field(gt=0)] | Literal["last"] = Field(
        default="last", description="a step whose checkpoint is kept"
    )


def take_over(stages: Any) -> Any:
    """Raw stages with what those that extend another have from it.

    Raises:
        ValueError: such a stage gives an `init`, too, or there is no such earlier stage.
    """
    if not isinstance(stages, list):
        return stages
    found: list[Any] = []
    for stage in stages:
        continued = stage.get("continue_from") if isinstance(stage, dict) else None
        if isinstance(continued, dict):
            name = continued.get("stage")
            if "init" in stage:
                raise ValueError(
                    f"{stage.get('name')}.init = {stage['init']!r}: a stage with `continue_from` "
                    f"starts from the weights of {name!r}; leave `init` out"
                )
            parents = [one for one in found if isinstance(one, dict) and one.get("name") == name]
            if not parents:
                raise ValueError(
                    f"{stage.get('name')}.continue_from.stage = {name!r}: no earlier stage has "
                    "this name"
                )
            taken = {key: parents[0][key] for key in TAKEN_OVER if key in parents[0]}
            found.append(copy.deepcopy(taken) | stage)
        else:
            found.append(stage)
    return found
