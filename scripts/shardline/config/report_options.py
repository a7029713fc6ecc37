"""What a recipe's report is told: its datasets, stages, benchmarks, models and whole config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardline.config.checkpoint_options import chosen_on
from shardline.config.schema import Recipe
from shardline.config.stage_schema import Stage

if TYPE_CHECKING:
    from shardline.config.project import Project


def report_options(project: Project, name: str, recipe: Recipe, base: str) -> dict[str, Any]:
    """The data of a recipe's report; ``base`` is the name of its base model."""
    datasets: dict[str, dict[str, Any]] = {}
    for stage in recipe.stages:
        for data in project.stage_data[name, stage.name]:
            datasets[f"{data.dataset}/{data.tokens}"] = {
                "name": data.dataset,
                "filter": data.filtered,
                "tokens": data.tokens,
                "role": "train",
            }
    for benchmark in recipe.evaluate:
        datasets[benchmark] = {"name": benchmark, "role": "benchmark"}
    known = {entry["name"] for entry in datasets.values()}
    for stage in recipe.stages:
        for data in project.validation_data.get((name, stage.name), []):
            if data.dataset not in known:
                datasets[data.dataset] = {"name": data.dataset, "role": "validation"}
    for entry in datasets.values():
        registered = project.config.datasets[entry["name"]]
        entry |= {"licence": registered.licence, "source": registered.source}
    return {
        "recipe": name,
        "title": name,
        "description": recipe.description,
        "datasets": list(datasets.values()),
        "stages": [
            {
                "name": stage.name,
                "init": _start(stage),
                "method": stage.method,
                "export_from": stage.export_from,
                "chosen_on": chosen_on(project, name, stage),
                "reference_samples": stage.global_batch.reference_samples,
                "exports": project.exports(name, stage.name),
            }
            for stage in recipe.stages
        ],
        "benchmarks": recipe.evaluate,
        "models": project.models(name),
        "base": base,
        "base_source": recipe.base,
        "base_licence": recipe.base_licence,
        "config": recipe.model_dump(mode="json"),
    }


def _start(stage: Stage) -> str:
    """What a stage starts from, in words."""
    if not stage.continue_from:
        return stage.init
    step = stage.continue_from.step
    return f"{stage.continue_from.stage}, {'its end' if step == 'last' else f'step {step}'} on"
