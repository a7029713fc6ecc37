"""What the programs that plan and train a stage read of it, as plain data."""

from __future__ import annotations

import re
from typing import Any

from shardline.config.modules import Modules
from shardline.config.schema import Recipe
from shardline.config.stage_schema import FOREIGN, ModuleTuning, Stage, Tune
from shardline.errors import ConfigError

Options = dict[str, Any]
_MIXTURE = re.compile(
    r"^(?P<dataset>[A-Za-z][A-Za-z0-9_]*)(%(?P<percent>\d+(\.\d+)?)|#(?P<samples>\d+))?$"
)


def check_stage_names(recipe: Recipe, where: str) -> None:
    """See that each stage has a name of its own and starts from an earlier one.

    Raises:
        ConfigError: it does not.
    """
    seen = ["base"]
    for stage in recipe.stages:
        if stage.name in seen:
            raise ConfigError(f"{where}.stages: the name {stage.name!r} is taken")
        if not stage.init.startswith(FOREIGN) and stage.init not in seen:
            raise ConfigError(
                f"{where}.stages.{stage.name}.init = {stage.init!r}: no earlier stage has this "
                f"name; allowed: {', '.join(seen)}, hub://owner/name@revision, folder:/path, "
                "and with adapter+ in front of these a LoRA adapter"
            )
        seen.append(stage.name)


def mixture_entry(entry: str, where: str) -> tuple[str, dict[str, float]]:
    """A dataset, and the share of it: ``{"percent"}``, or ``{"samples"}``.

    Raises:
        ConfigError: it is written otherwise, or the share is nothing.
    """
    if not (match := _MIXTURE.match(entry)):
        raise ConfigError(f"{where}: {entry!r} is not `name` or `name%50` or `name#1000`")
    if match["samples"]:
        share = {"samples": int(match["samples"])}
    else:
        share = {"percent": float(match["percent"] or 100)}
    if not any(share.values()):
        raise ConfigError(f"{where}: {entry!r} takes nothing; allowed: above 0")
    return match["dataset"], share


def plan_options(name: str, recipe: Recipe, stage: Stage, mixture: list[Options]) -> Options:
    """Options of the plan, without those that a family adds.

    Args:
        name: of the recipe.
        mixture: ``dataset`` and its ``percent`` or ``samples``.
    """
    batch = stage.global_batch.model_dump(exclude={"reference_samples"}, exclude_none=True)
    return {
        "recipe": name,
        "stage": stage.name,
        "method": stage.method,
        "seed": recipe.seed,
        "mixture": mixture,
        "global_batch": batch,
        "packing": stage.packing,
        "steps": stage.steps,
        "epochs": stage.epochs,
        "epoch_draws": stage.epoch_draws,
        "max_length": stage.max_length,
        "max_patches": stage.max_patches,
        "length_grouped": stage.length_grouped,
        "fixed_shape": stage.fixed_shape,
        "too_long": stage.too_long,
        "max_reject_share": stage.max_reject_share,
        "split": recipe.split and {"validation": recipe.split.percent, "by": recipe.split.by},
        "env_epoch": recipe.env_epoch,
    }


def train_options(name: str, recipe: Recipe, stage: Stage) -> Options:
    """Options of the training, without those that a family adds."""
    extended = {
        "quantise": stage.quantise,
        "validate": stage.validation and stage.validation.model_dump(),
        "continue_from": stage.continue_from and stage.continue_from.model_dump(),
    }
    return {
        "recipe": name,
        "stage": stage.name,
        "method": stage.method,
        "seed": recipe.seed,
        "precision": stage.precision,
        "tune": tune_options(stage.tune),
        "optimizer": stage.optimizer.options,
        "schedule": stage.schedule.model_dump(),
        **{key: value for key, value in extended.items() if value},
        "env_epoch": recipe.env_epoch,
    }


def validation_options(plan: Options) -> Options:
    """The plan of what a stage's recipe holds out: all of it once, in packs as for training."""
    whole = [{"dataset": entry["dataset"], "percent": 100.0} for entry in plan["mixture"]]
    once = {"steps": None, "epochs": 1.0, "epoch_draws": None}
    return {**plan, **once, "mixture": whole, "part": "validation"}


def merging_options(modules: Modules, family: str, stage: Stage, where: str) -> Options:
    """The option ``token_merging`` of a stage that has it.

    Raises:
        ConfigError: the family's vision tower cannot merge tokens.
    """
    if not stage.token_merging:
        return {}
    if not hasattr(modules.load("families", family), "merging_of"):
        raise ConfigError(
            f"{where}.token_merging: the vision tower of the family {family} cannot merge "
            "tokens; allowed: llava, or leave it out"
        )
    return {"token_merging": stage.token_merging.model_dump()}


def tune_options(tune: Tune) -> Options:
    """``tune`` as the training program reads it: one flat section a module."""
    return {name: _module_options(getattr(tune, name)) for name in ("llm", "projector", "vision")}


def _module_options(module: ModuleTuning | None) -> Options:
    if module is None:
        return {"mode": "frozen"}
    shared = {"lr": module.lr, "weight_decay": module.weight_decay}
    if module.lora is None:
        return {"mode": "full", **shared}
    return {"mode": "lora", **shared, **module.lora.model_dump()}
