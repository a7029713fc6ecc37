"""The report page: one self-contained HTML file from the summary's figures and some pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from shardline.redact import redact_text
from shardline.reporting.artefacts import Artefacts, Json
from shardline.reporting.charts import Interval, interval_chart
from shardline.reporting.chosen import SELECTED, SELECTED_MEANS, checkpoint_note
from shardline.reporting.curves import stage_curves
from shardline.reporting.filters import filter_pictures
from shardline.reporting.numbers import count, per_cent, plural, seconds, size
from shardline.reporting.pictures import predictions, training_samples

STAGE_NAMES = {
    "raw": "raw",
    "convert": "converted",
    "filter": "filtered",
    "tokens": "tokens",
    "plan": "plan",
}


def render_page(options: Json, summary: Json, artefacts: Artefacts) -> str:
    """The whole page as text. Every figure comes from ``summary``; texts are escaped."""
    last = options["models"][-1]
    sets = [
        {"benchmark": name, "groups": predictions(options, last, name, artefacts)}
        for name in options["benchmarks"]
    ]
    training = {
        dataset["name"]: dataset.get("filter")
        for dataset in options["datasets"]
        if dataset["role"] == "train"
    }
    return page_template().render(
        selected=SELECTED,
        selected_means=SELECTED_MEANS,
        title=options["title"],
        description=redact_text(options.get("description") or ""),
        trained=trained_sentence(options, summary),
        headlines=headlines(summary),
        score_tables=score_tables(summary),
        last_model=last,
        prediction_sets=[item for item in sets if item["groups"]],
        curves=[
            {
                "charts": stage_curves(
                    options["recipe"], name, _stage(summary, "train", name).get("key"), artefacts
                ),
                "note": checkpoint_note(summary, name),
            }
            for name in summary["training"]
        ],
        funnel=funnel(summary),
        sample_sets=[
            {"name": name, "scenes": training_samples(name, variant, artefacts)}
            for name, variant in training.items()
        ],
        filter_sets=[
            {"name": name, "pictures": pictures}
            for name, variant in training.items()
            if (pictures := filter_pictures(name, variant, artefacts))
        ],
        gates=summary["gates"],
        times=times(summary),
        commands=commands(options),
        config=yaml.safe_dump(
            {"recipes": {options["recipe"]: summary["config"]}},
            sort_keys=False,
            allow_unicode=True,
            width=100,
        ).strip(),
        locks=[
            lock
            | {
                "source": source_text(lock),
                "files": count(lock["files"]),
                "size": size(lock["bytes"]),
            }
            for lock in summary["locks"]
        ],
        versions=version_rows(summary["versions"]),
    )


@cache
def page_template() -> Template:
    """The compiled template; everything it prints is escaped, an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _stage(summary: Json, kind: str, name: str) -> Json:
    return summary["stages"].get(f"{kind}/{name}", {})


def trained_sentence(options: Json, summary: Json) -> str:
    """What was trained, in one sentence."""
    parts = []
    for stage in options["stages"]:
        figures, plan = (_stage(summary, kind, stage["name"]) for kind in ("train", "plan"))
        how = {"lora": "LoRA", "full": "all weights"}.get(figures.get("kind", ""), stage["method"])
        text = f"{stage['name']} ({how}, from {stage['init']}"
        if figures.get("steps") is not None:
            text += f", {plural(figures['steps'], 'step')}"
        if plan.get("drawn") is not None:
            text += f", {plural(plan['drawn'], 'sample')}"
        parts.append(text + ")")
    source = redact_text(options.get("base_source") or options["base"])
    return f"Base model {source}. Trained: {', then '.join(parts) or 'nothing'}."


def headlines(summary: Json) -> list[Json]:
    """For each benchmark, the base's and the last model's accuracy in large figures."""
    result = []
    for benchmark, models in summary["scores"].items():
        gain = summary["improvement"].get(benchmark)
        shown = [gain["from"], gain["to"]] if gain else list(models)[-1:]
        figures = [
            {
                "name": f"{model}{' (before training)' if model == 'base' else ''}",
                "value": per_cent(models[model]["accuracy"]),
                "note": f"{per_cent(models[model]['low'])} to {per_cent(models[model]['high'])}",
            }
            for model in shown
        ]
        if not figures:
            continue
        items = plural(models[shown[-1]]["n"], "item")
        sentence = f"Accuracy on {benchmark}, {items}, with 95 % intervals."
        if gain:
            points = 100 * gain["difference"]
            figures.append(
                {
                    "name": "difference",
                    "value": f"{points:+.1f}".replace("-", "−"),
                    "note": "percentage points",
                }
            )
            touch = "overlap" if gain["intervals_touch"] else "do not touch"
            before, after = gain["from"], gain["to"]
            sentence += (
                f" The intervals {touch}. {after} hits {plural(gain['gained'], 'item')} that"
                f" {before} misses, and misses {count(gain['lost'])} that {before} hits."
            )
        if selected := [model for model in shown if models[model]["selected_on_test"]]:
            sentence += f" {selected[-1]} was {SELECTED}: {SELECTED_MEANS}"
        result.append({"benchmark": benchmark, "figures": figures, "sentence": sentence})
    return result


def score_tables(summary: Json) -> Json:
    """For each benchmark the rows of the score table, its interval chart and the cells."""
    tables = {}
    for benchmark, models in summary["scores"].items():
        if not models:
            continue
        rows = [
            {
                "model": model,
                **{key: per_cent(score[key]) for key in ("accuracy", "low", "high", "macro")},
                **{key: count(score[key]) for key in ("n", "wrong_format", "missing")},
                "selected": score["selected_on_test"],
            }
            for model, score in models.items()
        ]
        intervals = [
            Interval(
                model,
                score["accuracy"],
                score["low"],
                score["high"],
                "base" if model == "base" else "",
            )
            for model, score in models.items()
        ]
        names = sorted({cell for score in models.values() for cell in score["cells"] or {}})
        tables[benchmark] = {
            "rows": rows,
            "models": list(models),
            "selected": any(score["selected_on_test"] for score in models.values()),
            "chart": interval_chart(intervals, "accuracy with 95 % interval"),
            "cells": [_cell(name, models) for name in names],
        }
    return tables


def _cell(name: str, models: Json) -> Json:
    cells = [(score["cells"] or {}).get(name) for score in models.values()]
    return {
        "name": name,
        "values": [per_cent(cell["accuracy"]) if cell else "–" for cell in cells],
        "n": count(max(cell["n"] for cell in cells if cell)),
    }


def funnel(summary: Json) -> list[Json]:
    """One row a data stage: what went in, was kept, was rejected and why, and what came out."""
    rows = []
    for place, entry in summary["stages"].items():
        kind, _, name = place.partition("/")
        if kind not in STAGE_NAMES:
            continue
        reasons = ", ".join(
            f"{reason}: {count(number)}"
            for reason, number in sorted(entry.get("reasons", {}).items())
        )
        rows.append(
            {
                "stage": STAGE_NAMES[kind],
                "data": name,
                "in": count(entry.get("in")),
                "kept": count(entry.get("kept")),
                "rejected": count(entry.get("rejected")),
                "out": _outcome(kind, entry),
                "reasons": reasons,
            }
        )
    return rows


def _outcome(kind: str, entry: Json) -> str:
    if kind == "raw":
        return f"{plural(entry['files'], 'file')}, {size(entry['bytes'])}"
    if kind == "convert":
        elements = entry.get("elements")
        text = f"{plural(elements['kept'], 'box', 'boxes')}" if elements else ""
        return text + (f", {count(entry['clipped'])} clipped" if entry.get("clipped") else "")
    if kind == "filter":
        names = ", ".join(item["name"] for item in entry["filters"]) or "none"
        shards = plural(entry["shards"], "shard")
        return f"{shards}, {size(entry['bytes'])}; filters: {names}"
    if kind == "tokens":
        return (
            f"{plural(entry['tokens'], 'token')}, {count(entry['supervised_tokens'])} supervised, "
            f"{plural(entry['patches'], 'image patch', 'image patches')}"
        )
    fill, same = entry.get("fill"), entry.get("equivalent")
    return (
        f"{plural(entry['steps'], 'step')}, {plural(entry['drawn'], 'sample')} drawn, "
        f"{plural(entry['packs'], 'pack')} of ≤ {count(entry['max_length'])} tokens"
        + (f", {per_cent(fill)} full" if fill is not None else "")
        + (f", as {same['updates']:,.0f} updates of {same['reference_samples']}" if same else "")
    )


def times(summary: Json) -> Json:
    """Seconds of each stage with a bar's length in per cent of the longest, and their sum."""
    timed = {
        place: entry["seconds"]
        for place, entry in summary["stages"].items()
        if entry.get("seconds") is not None
    }
    longest = max(timed.values(), default=0) or 1
    rows = [
        {"stage": place, "seconds": seconds(value), "share": round(100 * value / longest, 1)}
        for place, value in timed.items()
    ]
    return {"rows": rows, "total": seconds(sum(timed.values()))}


def commands(options: Json) -> str:
    """The shell commands that build this recipe's report and open its runs."""
    return (
        f"snakemake --profile profiles/local --config 'build=[{options['recipe']}]' all\n"
        "shardline verify\n"
        "shardline mlflow"
    )


def source_text(lock: Json) -> str:
    """A lock's source, with its revision where the source does not name it."""
    source, revision = redact_text(str(lock["source"] or "")), lock.get("revision")
    return source if not revision or revision in source else f"{source}@{revision}"


def version_rows(versions: Json) -> list[Json]:
    """One row a package and version; stages are named only where a package has several versions."""
    return [
        {
            "package": package,
            "version": version,
            "stages": ", ".join(places) if len(found) > 1 else "all that use it",
        }
        for package, found in versions.items()
        for version, places in sorted(found.items())
    ]
