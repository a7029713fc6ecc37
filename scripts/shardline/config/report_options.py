"""What a recipe's report is told: its datasets, stages, benchmarks, models and whole config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardline.config.schema import Recipe

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
                "init": stage.init,
                "method": stage.method,
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
