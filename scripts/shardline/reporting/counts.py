"""What went into each stage, what was kept, what was rejected and why, and how long it took."""

from __future__ import annotations

from shardline.equivalent import equivalent
from shardline.files import sha256_file
from shardline.reporting.artefacts import Artefacts, Json


def stage_counts(options: Json, artefacts: Artefacts) -> dict[str, Json]:
    """One entry a stage of the recipe, in the order of the work: ``{"convert/<d>": {...}}``.

    Entries of data stages have ``unit``, ``in``, ``kept``, ``rejected``, ``reasons``; all have
    ``seconds`` (None where it was not measured). A stage whose manifest is missing has no entry.
    """
    stages: dict[str, Json] = {}
    datasets = options["datasets"]
    for name in dict.fromkeys(dataset["name"] for dataset in datasets):
        _add(stages, f"raw/{name}", raw_counts(name, artefacts))
    _add(
        stages, f"raw/models/{options['base']}", raw_counts(f"models/{options['base']}", artefacts)
    )
    for name in dict.fromkeys(dataset["name"] for dataset in datasets):
        _add(stages, f"convert/{name}", convert_counts(name, artefacts))
    for kind, count in (("filter", filter_counts), ("tokens", token_counts)):
        variants = dict.fromkeys((d["name"], d[kind]) for d in datasets if d.get(kind))
        names = [name for name, _ in variants]
        for name, variant in variants:
            place = f"{kind}/{name}" if names.count(name) == 1 else f"{kind}/{name}/{variant}"
            _add(stages, place, count(name, variant, artefacts))
    recipe = options["recipe"]
    for stage in options["stages"]:
        reference = stage.get("reference_samples")
        counts = plan_counts(recipe, stage["name"], artefacts, reference)
        _add(stages, f"plan/{stage['name']}", counts)
    for stage in options["stages"]:
        _add(stages, f"train/{stage['name']}", train_figures(recipe, stage["name"], artefacts))
        _add(stages, f"export/{stage['name']}", export_figures(recipe, stage["name"], artefacts))
    for model in options["models"]:
        for benchmark in options["benchmarks"]:
            counts = evaluation_counts(recipe, model, benchmark, artefacts)
            _add(stages, f"evaluate/{model}/{benchmark}", counts)
    return stages


def _add(stages: dict[str, Json], place: str, entry: Json | None) -> None:
    if entry is not None:
        stages[place] = entry


def _counts(unit: str, counts: Json, reasons: Json, seconds: float | None) -> Json:
    return {
        "unit": unit,
        "in": counts["in"],
        "kept": counts["kept"],
        "rejected": counts["rejected"],
        "reasons": reasons,
        "seconds": seconds,
    }


def raw_counts(name: str, artefacts: Artefacts) -> Json | None:
    """Files and bytes of a dataset or of ``models/<name>``."""
    lock = artefacts.json(f"raw/{name}.lock.json")
    if lock is None:
        return None
    model = name.removeprefix("models/")
    patterns = (
        (f"fetch_dataset/{name}",)
        if model == name
        else (f"fetch_model/{model}", f"build_model/{model}")
    )
    return {
        "unit": "files",
        "files": lock["files"],
        "bytes": lock["bytes"],
        "seconds": artefacts.seconds(*patterns),
    }


def convert_counts(name: str, artefacts: Artefacts) -> Json | None:
    """Rows of a dataset through conversion and the media audit."""
    manifest = artefacts.json(f"converted/{name}/manifest.json")
    if manifest is None:
        return None
    seconds = artefacts.seconds(f"convert_dataset/{name}")
    entry = _counts("rows", manifest["rows"], manifest.get("reasons", {}), seconds)
    return entry | {"elements": manifest.get("elements"), "clipped": manifest.get("clipped", 0)}


def filter_counts(name: str, variant: str, artefacts: Artefacts) -> Json | None:
    """Samples of a dataset through a filter chain, with each filter's own rejects."""
    manifest = artefacts.json(f"filtered/{name}/{variant}/manifest.json")
    if manifest is None:
        return None
    seconds = artefacts.seconds(
        f"decide_filters/{name}/{variant}",
        f"write_image_shard/{name}/{variant}/*",
        f"write_filter_manifest/{name}/{variant}",
    )
    entry = _counts("samples", manifest["samples"], manifest.get("reasons", {}), seconds)
    filters = [
        {"name": item["name"], "rejected": item.get("rejected", 0)}
        for item in manifest.get("filters", [])
    ]
    return entry | {
        "variant": variant,
        "filters": filters,
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        "shards": len(manifest["shards"]),
    }


def token_counts(name: str, variant: str, artefacts: Artefacts) -> Json | None:
    """Samples of a dataset through tokenisation, with token and patch totals."""
    manifest = artefacts.json(f"tokens/{name}/{variant}/manifest.json")
    if manifest is None:
        return None
    seconds = artefacts.seconds(
        f"tokenize_shard/{name}/{variant}/*", f"write_token_manifest/{name}/{variant}"
    )
    entry = _counts("samples", manifest["samples"], manifest.get("reasons", {}), seconds)
    totals = ("tokens", "supervised_tokens", "patches")
    return entry | {"variant": variant} | {key: manifest.get(key) for key in totals}


def plan_counts(
    recipe: str, stage: str, artefacts: Artefacts, reference_samples: int | None = None
) -> Json | None:
    """Samples that a stage's plan could draw, how many it does, and in how many steps.

    ``equivalent`` is None, or what the plan is to a batch of ``reference_samples``.
    """
    plan = artefacts.json(f"plans/{recipe}/{stage}.json")
    if plan is None:
        return None
    folders = sorted({shard["path"].rpartition("/")[0] for shard in plan["shards"]})
    manifests = [artefacts.json(f"{folder}/manifest.json") for folder in folders]
    offered = sum(manifest["samples"]["kept"] for manifest in manifests if manifest)
    rejected = plan.get("rejected", 0)
    counts = {"in": offered, "kept": offered - rejected, "rejected": rejected}
    seconds = artefacts.seconds(f"plan_stage/{recipe}/{stage}")
    figures = (
        "steps", "samples", "distinct_samples", "epochs", "packs", "tokens", "supervised_tokens",
        "patches", "fill", "max_length", "shares", "samples_per_step",
    )  # fmt: skip
    entry = _counts("samples", counts, plan.get("reasons", {}), seconds)
    entry |= {key if key != "samples" else "drawn": plan.get(key) for key in figures}
    same = reference_samples and equivalent(plan["samples"], plan["steps"], reference_samples)
    return entry | {"equivalent": same or None}


def train_figures(recipe: str, stage: str, artefacts: Artefacts) -> Json | None:
    """What a training stage did: its key, steps, losses and sizes."""
    name = f"checkpoints/{recipe}/{stage}/result.json"
    result = artefacts.json(name)
    if result is None:
        return None
    figures = (
        "key", "kind", "steps", "first_loss", "final_loss", "parameters", "trainable_parameters",
        "validation", "best", "stopped_early", "continues",
    )  # fmt: skip
    return {key: result.get(key) for key in figures} | {
        "result_sha256": sha256_file(artefacts.path(name)),
        "seconds": artefacts.seconds(f"train_stage/{recipe}/{stage}"),
    }


def export_figures(recipe: str, stage: str, artefacts: Artefacts) -> Json | None:
    """The exported forms of a stage's model, their bytes, and the step they are of."""
    kinds, choice = {}, {}
    for path in sorted(artefacts.path(f"models/{recipe}/{stage}").glob("*.json")):
        manifest = artefacts.json(f"models/{recipe}/{stage}/{path.name}")
        kinds[path.stem] = sum(file["bytes"] for file in manifest["files"])
        choice = {key: manifest.get(key) for key in ("export_from", "step")}
    if not kinds:
        return None
    seconds = artefacts.seconds(f"export_adapter/{recipe}/{stage}", f"merge_model/{recipe}/{stage}")
    return {"bytes": kinds, **choice, "seconds": seconds}


def evaluation_counts(recipe: str, model: str, benchmark: str, artefacts: Artefacts) -> Json | None:
    """Items of a benchmark that a model answered; missing ones had no usable image."""
    folder = f"evals/{recipe}/{model}/{benchmark}"
    scores = artefacts.json(f"{folder}/scores.json")
    if scores is None:
        return None
    missing = scores.get("missing", 0)
    counts = {"in": scores["n"] + missing, "kept": scores["n"], "rejected": missing}
    reasons = {"no usable image": missing} if missing else {}
    wildcards = f"{recipe}/{model}/{benchmark}"
    seconds = artefacts.seconds(f"predict_benchmark/{wildcards}", f"score_predictions/{wildcards}")
    return _counts("items", counts, reasons, seconds) | {
        "scores_sha256": sha256_file(artefacts.path(f"{folder}/scores.json"))
    }
