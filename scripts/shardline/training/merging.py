"""Token merging in a training: as its plan counted the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardline.errors import ConfigError
from shardline.merging_family import KEY, family_of_plan
from shardline.training.inputs import Stage
from shardline.training.zero_config import preset_zero_stage


def planned_family(family: Any, stage: Stage, plan: Mapping[str, Any]) -> Any:
    """The family with the token merging that a plan was made for.

    Args:
        plan: its JSON.

    Raises:
        ConfigError: the stage asks for another merging, or ranks would wait for each other.
    """
    asked, planned = stage.options.get(KEY), plan.get(KEY)
    if asked != (planned and {key: planned[key] for key in ("ratio", "slowfast")}):
        raise ConfigError(f"{stage.plan}: made for {KEY} = {planned}, not {asked}; plan again")
    ranks = stage.hardware.ranks
    if asked and asked["slowfast"] and ranks > 1 and preset_zero_stage(stage.hardware) > 2:
        raise ConfigError(
            f"{KEY}.slowfast = true: not with ZeRO stage 3 on {ranks} ranks (hardware preset "
            f"{stage.hardware.name!r}): a rank with a video runs the vision tower twice, which one "
            "without never joins; allowed: ZeRO stage 2, one rank, or slowfast: false"
        )
    return family_of_plan(family, plan)
