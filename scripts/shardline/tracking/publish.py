"""Publishing a finished recipe: scores, report and the last stage's model version.

Scores are taken from the report's summary together with the keys of the trainings they belong to,
so that a rerun's half-way state cannot put old scores on a new run.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from shardline.files import sha256_file, short_hash
from shardline.tracking.observed import REPORT_FILES, Json, Training, file_stamps

if TYPE_CHECKING:
    from shardline.tracking.delivery import Delivery

TAG = "shardline."
ALIAS = "candidate"
SELECTED = "selected_on_test"
FIELDS = ("accuracy", "low", "high", "n")
LARGEST_MODEL = 500_000_000  # bytes of a merged model that is uploaded to a server


def publish_report(delivery: Delivery, recipe: str, summary: Json) -> None:
    """Deliver a report to its recipe's parent run and to the runs whose keys it names."""
    keys = {
        name: summary["stages"].get(f"train/{name}", {}).get("key") for name in summary["training"]
    }
    records = {name: delivery.record_of(recipe, name, key) for name, key in keys.items() if key}
    if not any(records.values()):
        return
    parent = delivery.state["recipes"][recipe]
    delivery.touch(parent)
    patterns = (
        f"reports/{recipe}/*",
        f"models/{recipe}/*/*.json",
        f"checkpoints/{recipe}/*/*.json",
    )
    mark = short_hash([file_stamps(delivery.results, patterns), parent["run_id"], keys])
    if parent["deleted"] or parent.get("published") == mark:
        return
    scores = {
        f"score/{benchmark}/{model}/{field}": score[field]
        for benchmark, models in summary["scores"].items()
        for model, score in models.items()
        for field in FIELDS
    }
    set_scores(delivery, parent, scores)
    for name, record in records.items():
        if record is not None:
            publish_stage(delivery, recipe, name, record, summary)
    for name in REPORT_FILES:
        path = delivery.results / "reports" / recipe / name
        if path.is_file():
            delivery.add_artefact(parent, path, "report")
    if summary.get("config"):
        add_text(delivery, parent, "recipe.yaml", summary["config"])
    last = summary["training"][-1]
    if records.get(last) is not None:
        publish_model(delivery, recipe, last, keys[last], summary)
    delivery.store.client.set_terminated(parent["run_id"], status="FINISHED")
    parent["published"] = mark
    delivery.save()


def publish_stage(delivery: Delivery, recipe: str, stage: str, record: Json, summary: Json) -> None:
    """A stage's scores as metrics, and its score files as artefacts."""
    scores = {}
    for benchmark, models in summary["scores"].items():
        if stage not in models:
            continue
        scores |= {f"score/{benchmark}/{field}": models[stage][field] for field in FIELDS}
        path = delivery.results / "evals" / recipe / stage / benchmark / "scores.json"
        told = summary["stages"].get(f"evaluate/{stage}/{benchmark}", {}).get("scores_sha256")
        if path.is_file() and sha256_file(path) == told:
            delivery.add_artefact(record, path, f"scores/{benchmark}")
    set_scores(delivery, record, scores)
    if selected := selected_on(summary, stage):
        delivery.store.client.set_tag(record["run_id"], f"{TAG}{SELECTED}", selected)


def selected_on(summary: Json, stage: str) -> str:
    """Benchmarks whose items decided which checkpoint of a stage was exported."""
    return ", ".join(
        benchmark
        for benchmark, models in summary["scores"].items()
        if models.get(stage, {}).get(SELECTED)
    )


def set_scores(delivery: Delivery, record: Json, scores: dict[str, float]) -> None:
    """Log scores that the run does not have yet."""
    known = delivery.known_values(record)
    delivery.store.set_scores(record["run_id"], scores, known)
    known |= {name: float(value) for name, value in scores.items()}


def add_text(delivery: Delivery, record: Json, name: str, value: Any) -> None:
    """Plain data as a YAML artefact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
        delivery.add_artefact(record, path, "config")


def publish_model(delivery: Delivery, recipe: str, stage: str, key: str, summary: Json) -> None:
    """A version of ``shardline-<recipe>`` for the merged model; the alias goes to the current."""
    training = Training(delivery.results, recipe, stage, key)
    merged = training.export("merged")
    if merged is None:
        return
    client, name = delivery.store.client, f"shardline-{recipe}"
    versions = registered_versions(client, name)
    manifest = delivery.results / "models" / recipe / stage / "merged.json"
    tags = {f"{TAG}key": key, f"{TAG}stage": stage, f"{TAG}merged_sha256": sha256_file(manifest)}
    same = [v for v in versions if all(v.tags.get(tag) == tags[tag] for tag in tags)]
    scores = {
        f"{TAG}score.{benchmark}": f"{models[stage]['accuracy']:.4f}"
        for benchmark, models in summary["scores"].items()
        if stage in models
    }
    if selected := selected_on(summary, stage):
        scores[f"{TAG}{SELECTED}"] = selected
    if same:
        version = same[0]
        for tag, value in scores.items():
            if version.tags.get(tag) != value:
                client.set_model_version_tag(name, version.version, tag, value)
    else:
        record = delivery.state["runs"][training.name]
        version = client.create_model_version(
            name,
            source=model_source(delivery, record, manifest, merged),
            run_id=record["run_id"],
            tags=tags | scores,
            description=f"{recipe}/{stage}, merged; key {key}",
        )
    number = str(version.version)
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(ALIAS)) != number:
        client.set_registered_model_alias(name, ALIAS, number)


def registered_versions(client: Any, name: str) -> list[Any]:
    """All versions of a registered model, which is made when it does not exist."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return list(client.search_model_versions(f"name = '{name}'", max_results=1000))


def model_source(delivery: Delivery, record: Json, manifest: Path, merged: Json) -> str:
    """Where a version's files are: the folder itself, or what a server was given of it.

    A server takes no path of another machine, so it gets the files, or of a large model only the
    manifest with their hashes.
    """
    folder = manifest.with_suffix("")
    if not delivery.store.server:
        return str(folder.absolute())
    client, run_id = delivery.store.client, record["run_id"]
    if sum(file["bytes"] for file in merged["files"]) <= LARGEST_MODEL:
        client.log_artifacts(run_id, str(folder), "merged")
    else:
        client.log_artifact(run_id, str(manifest), "merged")
        place = json.dumps({"path": str(folder)})
        client.set_tag(run_id, f"{TAG}merged", place)
    return f"runs:/{run_id}/merged"
