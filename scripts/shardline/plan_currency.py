"""Whether a plan on the disk is what the config says now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardline.arrangement import packing_of

if TYPE_CHECKING:
    from shardline.config.project import Project

SAME = ("seed", "max_length", "max_patches", "global_batch", "fixed_shape", "too_long")


def difference(
    project: Project, recipe: str, stage: str, plan: Mapping[str, Any], validation: bool = False
) -> str | None:
    """The first option of a stage in which its plan differs from the config; None if in none.

    What a plan does not state is not seen here: ``length_grouped``, ``epoch_draws`` and a part of
    an epoch.

    Args:
        plan: its JSON.
    """
    table = project.plan_validation if validation else project.plan
    options = table[recipe, stage]
    asked = {
        entry["dataset"]: f"#{entry['samples']}" if "samples" in entry else entry["percent"]
        for entry in options["mixture"]
    }
    split = plan["split"] and {key: plan["split"][key] for key in ("validation", "by")}
    pairs: dict[str, tuple[Any, Any]] = {
        **{name: (plan[name], options[name]) for name in SAME},
        "packing": (plan["packing"], packing_of(options)),
        "train": ({name: share["asked"] for name, share in plan["shares"].items()}, asked),
        "split": (split, options["split"]),
        "token_merging": (_merging(plan), options.get("token_merging")),
        **{
            name: (plan[name], options[name])
            for name in ("steps", "epochs")
            if options[name] is not None and options[name] == int(options[name])
        },
    }
    for name, (then, now) in pairs.items():
        if then != now:
            return f"{name}: {then}, now {now}"
    data = project.stage_data[recipe, stage]
    folders = tuple(f"tokens/{entry.dataset}/{entry.tokens}/" for entry in data)
    if not all(shard["path"].startswith(folders) for shard in plan["shards"]):
        return "tokens, or the filters before them"
    return None


def _merging(plan: Mapping[str, Any]) -> Any:
    section = plan.get("token_merging")
    return section and {key: section[key] for key in ("ratio", "slowfast")}
