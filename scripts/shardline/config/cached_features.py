"""Whether the vision tower's outputs can be computed once for a stage, and at which point."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from shardline.config.schema import Recipe
from shardline.config.stage_schema import Stage
from shardline.config.token_schema import Tokens
from shardline.errors import ConfigError


def chain(recipe: Recipe, stage: Stage) -> Iterator[Stage]:
    """A stage, the stage that it starts from, and so on down to the one that starts from a model.

    Args:
        recipe: whose stages start from earlier ones only.
    """
    stages = {one.name: one for one in recipe.stages}
    while stage:
        yield stage
        stage = stages.get(stage.init)


def features_point(
    recipe: Recipe, stage: Stage, tokens: Tokens, family: ModuleType, where: str
) -> str:
    """``projected`` where the projector, too, stays as it is from the model on; else ``tower``.

    Args:
        tokens: of the stage.
        where: the stage's place in the config, for messages.

    Raises:
        ConfigError: the outputs are not the same each time, or not those of the model.
    """
    if not hasattr(family, "stored_inputs"):
        raise ConfigError(
            f"{where}.cache_features = true: the family {recipe.family} cannot take features; "
            "allowed: false"
        )
    for one in chain(recipe, stage):
        if one.tune.vision:
            tuned = "tunes" if one is stage else f"starts from the stage {one.name!r}, which tunes"
            raise ConfigError(
                f"{where}.cache_features = true: the stage {tuned} the vision tower, whose outputs "
                "change then; allowed: tune.vision frozen in it and in all stages it starts from, "
                "or cache_features: false"
            )
    if tokens.crop:
        raise ConfigError(
            f"{where}.cache_features = true: tokens.crop draws crops anew for each variant; "
            "allowed: no crop, or cache_features: false"
        )
    return "tower" if any(one.tune.projector for one in chain(recipe, stage)) else "projected"
