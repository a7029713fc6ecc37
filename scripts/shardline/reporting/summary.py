"""The figures of a recipe's report: one source for ``summary.json``, the page and the card."""

from __future__ import annotations

from shardline.redact import redact
from shardline.reporting.artefacts import Artefacts, Json
from shardline.reporting.counts import stage_counts
from shardline.reporting.gates import gate_results

SCORE_FIELDS = ("accuracy", "n", "low", "high", "macro", "wrong_format", "missing", "cells")


def summarise(options: Json, artefacts: Artefacts) -> Json:
    """All figures of a recipe: scores, improvement, stages, gates, locks and versions.

    Args:
        options: the report's options, see ``write_report.py --help``.
        artefacts: the results that the recipe's stages left.
    """
    scores = read_scores(options, artefacts)
    stages = stage_counts(options, artefacts)
    return {
        "recipe": options["recipe"],
        "config": redact(options["config"]),
        "models": options["models"],
        "training": [stage["name"] for stage in options["stages"]],
        "scores": scores,
        "improvement": improvement(options, scores, artefacts),
        "stages": stages,
        "gates": gate_results(options, stages, artefacts),
        "locks": locks(options, artefacts),
        "versions": versions(options, artefacts),
    }


def read_scores(options: Json, artefacts: Artefacts) -> Json:
    """``{benchmark: {model: {"accuracy", "n", "low", "high", ...}}}``, fractions, not per cent.

    ``selected_on_test``: items of the benchmark's dataset decided which checkpoint was exported.
    """
    scores: Json = {}
    chosen_on = {stage["name"]: stage.get("chosen_on", ()) for stage in options["stages"]}
    for benchmark in options["benchmarks"]:
        scores[benchmark] = {}
        for model in options["models"]:
            found = artefacts.json(f"evals/{options['recipe']}/{model}/{benchmark}/scores.json")
            if found is not None:
                selected = benchmark in chosen_on.get(model, ())
                figures = {key: found.get(key) for key in SCORE_FIELDS}
                scores[benchmark][model] = figures | {"selected_on_test": selected}
    return scores


def improvement(options: Json, scores: Json, artefacts: Artefacts) -> Json:
    """For each benchmark, the last stage against the untrained base.

    ``gained`` and ``lost`` count the items that only the trained and only the base model hit.
    """
    first, last = options["models"][0], options["models"][-1]
    result = {}
    for benchmark, models in scores.items():
        if first == last or first not in models or last not in models:
            continue
        folder = f"evals/{options['recipe']}"
        before = _hits(artefacts, f"{folder}/{first}/{benchmark}/items.jsonl")
        after = _hits(artefacts, f"{folder}/{last}/{benchmark}/items.jsonl")
        shared = before.keys() & after.keys()
        result[benchmark] = {
            "from": first,
            "to": last,
            "difference": models[last]["accuracy"] - models[first]["accuracy"],
            "intervals_touch": models[last]["low"] <= models[first]["high"]
            and models[first]["low"] <= models[last]["high"],
            "gained": sum(after[item] and not before[item] for item in shared),
            "lost": sum(before[item] and not after[item] for item in shared),
        }
    return result


def _hits(artefacts: Artefacts, name: str) -> dict[str, bool]:
    return {row["item"]: bool(row["hit"]) for row in artefacts.rows(name)}


def locks(options: Json, artefacts: Artefacts) -> list[Json]:
    """What every dataset and the base model were locked to, with the licences that are stated."""
    licences = {dataset["name"]: dataset["licence"] for dataset in options["datasets"]}
    names = list(licences)
    licences[options["base"]] = options.get("base_licence") or "unknown"
    fields = ("name", "kind", "source", "revision", "files", "bytes", "sha256")
    found = [
        artefacts.json(f"raw/{name}.lock.json") for name in [*names, f"models/{options['base']}"]
    ]
    return [
        {key: lock.get(key) for key in fields} | {"licence": licences.get(lock["name"], "unknown")}
        for lock in found
        if lock is not None
    ]


def versions(options: Json, artefacts: Artefacts) -> Json:
    """``{package: {version: [stages]}}`` over all manifests."""
    recipe = options["recipe"]
    manifests = {}
    for dataset in options["datasets"]:
        name = dataset["name"]
        manifests[f"convert/{name}"] = f"converted/{name}/manifest.json"
        if dataset.get("filter"):
            manifests[f"filter/{name}"] = f"filtered/{name}/{dataset['filter']}/manifest.json"
        if dataset.get("tokens"):
            manifests[f"tokens/{name}"] = f"tokens/{name}/{dataset['tokens']}/manifest.json"
    for stage in options["stages"]:
        name = stage["name"]
        manifests[f"plan/{name}"] = f"plans/{recipe}/{name}.json"
        manifests[f"train/{name}"] = f"checkpoints/{recipe}/{name}/result.json"
        manifests[f"export/{name}"] = f"models/{recipe}/{name}/merged.json"
    found: Json = {}
    for place, manifest in sorted(manifests.items()):
        for package, version in ((artefacts.json(manifest) or {}).get("versions") or {}).items():
            found.setdefault(package, {}).setdefault(version, []).append(place)
    return dict(sorted(found.items()))
