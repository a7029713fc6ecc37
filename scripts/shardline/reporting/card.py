"""The model card: what the last stage's model is and what was measured, in the hub's format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shardline.redact import redact_text
from shardline.reporting.artefacts import Artefacts, Json
from shardline.reporting.chosen import SELECTED, SELECTED_MEANS
from shardline.reporting.gates import UNKNOWN_LICENCES
from shardline.reporting.numbers import count
from shardline.reporting.page import commands, score_tables, source_text, trained_sentence

FEW_ITEMS = 300
ROLES = {"train": "training", "benchmark": "benchmark", "validation": "validation"}
_HUB = re.compile(r"^hub://(?P<name>[\w.-]+/[\w.-]+)@")


def render_card(options: Json, summary: Json, artefacts: Artefacts) -> str:
    """The card as Markdown with the hub's front matter; every figure comes from ``summary``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_markdown, "code": code_span}
    last = options["stages"][-1]["name"] if options["stages"] else options["models"][-1]
    question, answer = _example(options, last, artefacts)
    return environment.get_template("card.md").render(
        front_matter=yaml.safe_dump(
            front_matter(options, summary), sort_keys=False, allow_unicode=True, width=100
        ).strip(),
        title=f"{options['title']}: {last}",
        description=redact_text(options.get("description") or ""),
        trained=trained_sentence(options, summary),
        folder=f"results/models/{options['recipe']}/{last}/merged",
        question=json.dumps(question, ensure_ascii=False),
        answer=answer,
        max_new_tokens=options["config"].get("max_new_tokens", 64),
        scores={name: table["rows"] for name, table in score_tables(summary).items()},
        stages=[_stage_row(stage, summary) for stage in options["stages"]],
        gates=summary["gates"],
        data=_data_rows(options, summary),
        limitations=limitations(options, summary),
        commands=commands(options),
    )


def escape_markdown(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def code_span(text: str) -> str:
    """Text as a Markdown code span, whatever backticks are in it."""
    line = " ".join(str(text).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def licence_of(options: Json) -> str:
    """The one licence that base and training data share, else ``other`` (or ``unknown``)."""
    stated = {options.get("base_licence", "")} | {
        dataset["licence"] for dataset in options["datasets"] if dataset["role"] == "train"
    }
    if stated & UNKNOWN_LICENCES:
        return "unknown"
    return stated.pop() if len(stated) == 1 else "other"


def front_matter(options: Json, summary: Json) -> Json:
    """The hub's metadata, with the measured scores of the last model as ``model-index``."""
    data: Json = {"license": licence_of(options), "library_name": "transformers"}
    data["pipeline_tag"] = "image-text-to-text"
    if match := _HUB.match(options.get("base_source") or ""):
        data["base_model"] = match["name"]
    trained = [d["source"] for d in options["datasets"] if d["role"] == "train"]
    hub = sorted({match["name"] for source in trained if (match := _HUB.match(source))})
    if hub:
        data["datasets"] = hub
    task = str((options["config"].get("tokens") or {}).get("task") or "")
    data["tags"] = ["shardline", *([task] if task else [])]
    last = options["models"][-1]
    results = [
        {
            "task": {"type": "image-text-to-text"},
            "dataset": {"type": benchmark, "name": benchmark},
            "metrics": [
                {
                    "type": "accuracy",
                    "value": models[last]["accuracy"],
                    "name": f"accuracy, {models[last]['n']} items, 95 % interval "
                    f"{models[last]['low']:.4f} to {models[last]['high']:.4f}"
                    + (f", {SELECTED}" if models[last]["selected_on_test"] else ""),
                }
            ],
        }
        for benchmark, models in summary["scores"].items()
        if last in models
    ]
    if results:
        data["model-index"] = [{"name": f"{options['recipe']}-{last}", "results": results}]
    return data


def _example(options: Json, model: str, artefacts: Artefacts) -> tuple[str, str]:
    """A question of a benchmark and the model's answer to it; the question alone has a default."""
    for benchmark in options["benchmarks"]:
        rows = artefacts.rows(f"evals/{options['recipe']}/{model}/{benchmark}/items.jsonl")
        if rows:
            return str(rows[0]["question"]), str(rows[0]["answer"])
    return "Where is the Save button?", ""


def _stage_row(stage: Json, summary: Json) -> Json:
    figures = summary["stages"].get(f"train/{stage['name']}", {})
    plan = summary["stages"].get(f"plan/{stage['name']}", {})
    losses = [figures.get("first_loss"), figures.get("final_loss")]
    trained, total = figures.get("trainable_parameters"), figures.get("parameters")
    return {
        "name": stage["name"],
        "init": stage["init"],
        "kind": {"lora": "LoRA", "full": "full"}.get(figures.get("kind", ""), "–"),
        "steps": count(figures.get("steps")),
        "samples": count(plan.get("drawn")),
        "tokens": count(plan.get("supervised_tokens")),
        "loss": " → ".join("–" if loss is None else f"{loss:.3f}" for loss in losses),
        "parameters": f"{count(trained)} of {count(total)}",
    }


def _data_rows(options: Json, summary: Json) -> list[Json]:
    locks = {lock["name"]: lock for lock in summary["locks"]}
    rows = {
        options["base"]: {
            "role": "base model",
            "licence": options.get("base_licence") or "unknown",
            "source": redact_text(options.get("base_source") or ""),
        }
    }
    for dataset in options["datasets"]:
        lock = locks.get(dataset["name"])
        rows[dataset["name"]] = {
            "role": ROLES[dataset["role"]],
            "licence": dataset["licence"],
            "source": source_text(lock) if lock else redact_text(dataset["source"]),
        }
    return [{"name": name, **row} for name, row in rows.items()]


def limitations(options: Json, summary: Json) -> list[str]:
    """What the artefacts show that a user of the model must know."""
    lines = []
    last = options["models"][-1]
    for benchmark, models in summary["scores"].items():
        if last not in models:
            continue
        score = models[last]
        lines.append(
            f"On {benchmark}, {100 * (1 - score['accuracy']):.1f} % of the answers are wrong, "
            f"{count(score['wrong_format'])} of them without a readable point."
        )
        if score["selected_on_test"]:
            lines.append(f"On {benchmark} this model was {SELECTED}: {SELECTED_MEANS}")
        if score["n"] < FEW_ITEMS:
            lines.append(f"{benchmark} has only {count(score['n'])} items: mind the interval.")
        if summary["improvement"].get(benchmark, {}).get("intervals_touch"):
            lines.append(f"On {benchmark} the intervals of this model and its base overlap.")
    if not any(last in models for models in summary["scores"].values()):
        lines.append("No score was measured for this model.")
    generated = [d["name"] for d in options["datasets"] if str(d["source"]).startswith("generate:")]
    if generated:
        names = ", ".join(dict.fromkeys(generated))
        lines.append(
            f"Drawn by a program, not taken from real screens: {names}. "
            "Scores on drawn screens say nothing about real ones."
        )
    lines.append("One seed was trained; no spread over seeds was measured.")
    lines.append("Only the tasks and languages of the data above were trained or measured.")
    lines += [
        f"The gate {gate['name']} ({gate['stage']}) "
        + ("failed." if gate["passed"] is False else "was not run.")
        for gate in summary["gates"]
        if not gate["passed"]
    ]
    return lines
