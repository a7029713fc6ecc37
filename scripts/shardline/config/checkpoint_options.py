"""Which stage extends which run, and on which data a stage's weights were chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardline.config.schema import Recipe
from shardline.config.stage_schema import ModuleTuning, Stage
from shardline.errors import ConfigError

if TYPE_CHECKING:
    from shardline.config.project import Project

RATES = {"lr", "weight_decay"}
"""Of a module: what a stage may change when it extends another's run."""


def check_steps(recipe: Recipe, stage: Stage, where: str) -> None:
    """Check the steps that a stage's checkpoints are named by, and the run that it extends.

    Raises:
        ConfigError: a step that is never reached, or another optimiser or other trained parameters
            than those of the run that is extended.
    """
    kind, _, number = stage.export_from.partition(":")
    if kind == "step" and stage.steps and int(number) > stage.steps:
        raise ConfigError(
            f"{where}.export_from = {stage.export_from!r}: the stage has {stage.steps} steps"
        )
    if not (continued := stage.continue_from):
        return
    where = f"{where}.continue_from"
    names = [one.name for one in recipe.stages]
    parent = recipe.stages[names.index(continued.stage)]
    if isinstance(continued.step, int) and parent.steps and continued.step > parent.steps:
        raise ConfigError(
            f"{where}.step = {continued.step}: {parent.name} has {parent.steps} steps"
        )
    same = {
        "method": (stage.method, parent.method),
        "precision": (stage.precision, parent.precision),
        "optimizer.name": (stage.optimizer.name, parent.optimizer.name),
        **{
            f"tune.{name}": (_parameters(getattr(stage.tune, name)), _parameters(other))
            for name, other in parent.tune
        },
    }
    for key, (own, other) in same.items():
        if own != other:
            raise ConfigError(
                f"{where}: {key} is {own!r}, that of {parent.name} is {other!r}: the state of its "
                "optimiser would not fit; make them equal, or start from the weights alone with "
                f"`init: {parent.name}` in place of continue_from"
            )


def _parameters(module: ModuleTuning | None) -> Any:
    """What decides which parameters of a module are trained."""
    return module.model_dump(exclude=RATES, exclude_none=True) if module else "frozen"


def chosen_on(project: Project, recipe: str, stage: Stage) -> list[str]:
    """Datasets on which a stage's exported weights, or those it started from, were chosen."""
    settings, found = stage.validation, set()
    if settings and (stage.export_from == "best" or settings.early_stop):
        found |= {data.dataset for data in project.validation_data[recipe, stage.name]}
    if stage.continue_from:
        parent = project.stage(recipe, stage.continue_from.stage)
        if parent.validation and parent.validation.early_stop:
            found |= {data.dataset for data in project.validation_data[recipe, parent.name]}
    kind, name = project.initial_model(recipe, stage.name)
    if kind == "stage":
        found |= set(chosen_on(project, recipe, project.stage(recipe, name)))
    return sorted(found)
