"""Whether each gate of the recipe passed, and by which figures."""

from __future__ import annotations

from shardline.reporting.artefacts import Artefacts, Json

UNKNOWN_LICENCES = frozenset({"", "unknown", "none"})


def gate_results(options: Json, stages: dict[str, Json], artefacts: Artefacts) -> list[Json]:
    """``{"name", "stage", "passed", "detail"}`` of every gate; ``passed`` None: not run."""
    recipe = options["recipe"]
    gates = [
        _audit(place, entry) for place, entry in stages.items() if place.startswith("convert/")
    ]
    variants = dict.fromkeys(
        (dataset["name"], dataset["filter"])
        for dataset in options["datasets"]
        if dataset.get("filter")
    )
    gates += [_overlap(name, variant, options, artefacts) for name, variant in variants]
    for stage in options["stages"]:
        name = stage["name"]
        gates.append(_preflight(name, stages.get(f"plan/{name}")))
        result = artefacts.json(f"checkpoints/{recipe}/{name}/result.json") or {}
        gates.append(_packing(name, result.get("gates", {}).get("packing_parity")))
        gates.append(_freeze(name, result.get("gates", {}).get("freeze_audit")))
        merged = artefacts.json(f"models/{recipe}/{name}/merged.json") or {}
        gates.append(_merge(name, result.get("kind"), merged.get("parity")))
    gates.append(licence_gate(options))
    return gates


def _gate(name: str, stage: str, passed: bool | None, detail: str) -> Json:
    return {"name": name, "stage": stage, "passed": passed, "detail": detail}


def _audit(place: str, entry: Json) -> Json:
    whole = entry["in"] == entry["kept"] + entry["rejected"]
    detail = f"{entry['in']:,} rows = {entry['kept']:,} kept + {entry['rejected']:,} rejected"
    return _gate("audit", place, whole, detail)


def _overlap(name: str, variant: str, options: Json, artefacts: Artefacts) -> Json:
    place = f"filter/{name}"
    report = artefacts.json(f"filtered/{name}/{variant}/report.json") or {}
    entry = next((item for item in report.get("filters", []) if item["name"] == "overlap"), None)
    against = " or ".join(options["benchmarks"]) or "no benchmark"
    if entry is None:
        return _gate("overlap", place, None, f"not run: no overlap filter against {against}")
    figures, limits = entry["figures"], entry["options"]
    detail = (
        f"{figures['matching_images']:,} of {figures['training_images']:,} training images match "
        f"one of the {figures['benchmark_images']:,} images of {against} "
        f"(at most {limits['max_distance']} of 64 hash bits differ), limit {limits['limit']:,}; "
        f"{entry['rejected']:,} samples rejected"
    )
    passed = figures["matching_images"] <= limits["limit"]
    return _gate("overlap", place, passed, detail)


def _preflight(stage: str, entry: Json | None) -> Json:
    place = f"plan/{stage}"
    if entry is None:
        return _gate("preflight", place, None, "no plan found")
    detail = f"{entry['in']:,} samples checked, {entry['rejected']:,} rejected"
    if entry["reasons"]:
        detail += f" ({', '.join(f'{k}: {v:,}' for k, v in sorted(entry['reasons'].items()))})"
    return _gate("preflight", place, True, detail)


def _packing(stage: str, gate: Json | None) -> Json:
    place = f"train/{stage}"
    if gate is None:
        return _gate("packing parity", place, None, "no result found")
    detail = (
        f"largest difference between a pack and its samples alone {gate['max_difference']:.2g}, "
        f"tolerance {gate['tolerance']:.2g}"
    )
    return _gate("packing parity", place, bool(gate["passed"]), detail)


def _freeze(stage: str, gate: Json | None) -> Json:
    place = f"train/{stage}"
    if gate is None:
        return _gate("freeze audit", place, None, "no result found")
    moved = [name for name, value in sorted(gate["moved"].items()) if value]
    still = [name for name, value in sorted(gate["moved"].items()) if not value]
    detail = f"moved: {', '.join(moved) or 'none'}; still: {', '.join(still) or 'none'}"
    return _gate("freeze audit", place, bool(gate["passed"]), detail)


def _merge(stage: str, kind: str | None, parity: Json | None) -> Json:
    place = f"export/{stage}"
    if parity is None:
        return _gate("merge parity", place, None, "no merged model found")
    detail = []
    if parity.get("max_logit_difference") is not None:
        detail.append(
            f"largest logit difference {parity['max_logit_difference']:.2g}, "
            f"tolerance {parity['tolerance']:.2g}"
        )
    if parity.get("changed_tensors") is not None:
        changed, still = parity["changed_tensors"], parity.get("unchanged_tensors", 0)
        detail.append(f"{_size(changed)} tensors changed, {_size(still)} unchanged")
    if kind == "full":
        detail.append("all weights were trained: nothing to merge")
    return _gate("merge parity", place, bool(parity["passed"]), "; ".join(detail))


def _size(value: int | list[str]) -> str:
    return f"{value if isinstance(value, int) else len(value):,}"


def licence_gate(options: Json) -> Json:
    """Whether the base model and every dataset states a licence; the detail names them all."""
    stated = {
        f"base {options['base']}": options.get("base_licence", ""),
        **{dataset["name"]: dataset["licence"] for dataset in options["datasets"]},
    }
    unknown = sorted(name for name, licence in stated.items() if licence in UNKNOWN_LICENCES)
    detail = ", ".join(f"{name}: {licence or 'unknown'}" for name, licence in stated.items())
    return _gate("licence", "report", not unknown, detail)
