"""`shardline estimate`: tokens, steps, memory and hours of a recipe, before a GPU is booked."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardline.cli.project import add_recipe_options
from shardline.errors import UserError

if TYPE_CHECKING:
    from shardline.config.project import Project
    from shardline.hardware import Hardware

HELP = "estimate tokens, steps, memory and GPU-hours of a recipe"
Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_recipe_options(parser, stage="only this stage")
    parser.add_argument(
        "--hardware",
        help="name of a preset in config/hardware, for memory and hours; default: one device, one "
        "pack a forward",
    )
    parser.add_argument(
        "--tokens-per-second",
        type=float,
        help="what one device trains, for hours; default: as measured by an earlier training of "
        "the stage, if there was one",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print one block a stage.

    Raises:
        UserError: no such recipe, stage or preset, or nothing of the data is converted yet.
    """
    from shardline.cli.project import open_recipes, pick_stage
    from shardline.cli.text import show_json
    from shardline.hardware import Hardware, load_hardware

    if arguments.tokens_per_second is not None and not arguments.tokens_per_second > 0:
        raise UserError("--tokens-per-second must be above 0")
    hardware = Hardware(name="one device")
    if arguments.hardware:
        hardware = load_hardware(Path("config/hardware") / f"{arguments.hardware}.yaml")
    project = open_recipes(arguments.configfile, [arguments.recipe])
    stages = [stage.name for stage in project.config.recipes[arguments.recipe].stages]
    if arguments.stage:
        stages = [pick_stage(project, arguments.recipe, arguments.stage)]
    found = {
        stage: estimate(project, arguments.recipe, stage, hardware, arguments.tokens_per_second)
        for stage in stages
    }
    if arguments.json:
        show_json(found)
    else:
        print("\n\n".join(describe(arguments.recipe, name, it) for name, it in found.items()))


def estimate(
    project: Project, recipe: str, stage: str, hardware: Hardware, speed: float | None
) -> Json:
    """``data``, ``memory`` (or why there is none) and ``time`` of a stage.

    Where the stage has ``reference_samples``, ``data`` has its `equivalent`.
    """
    from shardline.equivalent import equivalent

    data = stage_data(project, recipe, stage)
    if reference := project.stage(recipe, stage).global_batch.reference_samples:
        data["equivalent"] = equivalent(data["samples"], data["steps"], reference)
    return {
        "data": data,
        "hardware": hardware.name,
        "memory": stage_memory(project, recipe, stage, data, hardware),
        "time": stage_time(recipe, stage, data, hardware, speed),
    }


def stage_data(project: Project, recipe: str, stage: str) -> Json:
    """What the stage draws: from its plan, else from the converted samples' texts and sizes.

    A plan of another config is passed over, which ``source`` then says.
    """
    from shardline import paths
    from shardline.estimate import estimate_stage
    from shardline.files import read_json
    from shardline.merging_family import family_of_stage
    from shardline.plan_currency import difference

    plan = Path(paths.plan(recipe, stage))
    options = project.plan[recipe, stage]
    family = project.modules.load("families", options["family"])
    folder = Path(paths.model_folder(project.model_of[recipe, "base"]))
    other = ""
    if plan.is_file():
        found = read_json(plan)
        if (changed := difference(project, recipe, stage, found)) is None:
            names = ("samples", "distinct_samples", "tokens", "supervised_tokens", "packs", "steps")
            return {name: found[name] for name in (*names, "fill", "max_length")} | {
                "source": str(plan),
                "visual_tokens": found["patches"] // family.MERGE**2
                - found.get("token_merging", {}).get("merged", 0),
                "patches": found["patches"],
                "packs_a_step": found["max_packs_per_step"],
                "left_out": found["reasons"],
            }
        other = f"; {plan} is of another config ({changed})"
    data = project.stage_data[recipe, stage]
    manifests = {entry.dataset: Path(paths.converted(entry.dataset)) for entry in data}
    if missing := [str(path) for path in manifests.values() if not path.is_file()]:
        raise UserError(
            f"{missing[0]}: no such file; an estimate needs the samples' texts and image sizes: "
            f"snakemake --profile profiles/local {' '.join(missing)}"
        )
    tokenize = project.tokenize[data[0].dataset, data[0].tokens]
    ready = (folder / "tokenizer.json").is_file()
    if "token_merging" in options and not ready:
        lock = paths.model_lock(project.model_of[recipe, "base"])
        raise UserError(
            f"{lock}: no such file; how many tokens are left by token_merging depends on the base: "
            f"snakemake --profile profiles/local {lock}"
        )
    found = estimate_stage(
        manifests,
        options,
        family=family_of_stage(family, options, folder),
        task=project.modules.load("tasks", tokenize["task"]),
        tokens=tokenize["tokens"],
        tokenizer=family.load_tokenizer(folder) if ready else None,
    )
    text = "counted" if found["exact_text"] else "guessed from its characters"
    return {
        "source": f"converted samples, before filters; text {text}{other}",
        "samples": found["samples"],
        "distinct_samples": found["distinct"],
        "tokens": found["tokens"],
        "visual_tokens": found["visual_tokens"],
        "patches": found["patches"],
        "supervised_tokens": None,
        "packs": found["packs"],
        "packs_a_step": found["max_packs_per_step"],
        "steps": found["steps"],
        "fill": found["fill"],
        "max_length": options["max_length"],
        "left_out": {name: found[name] for name in ("too_long", "unusable") if found[name]},
    }


def stage_memory(project: Project, recipe: str, stage: str, data: Json, hardware: Hardware) -> Json:
    """Bytes a device, from the header of the weights that the recipe starts from."""
    from shardline import paths
    from shardline.memory import (
        Forward,
        device_bytes,
        lora_parameters,
        parameter_counts,
        read_architecture,
        read_shapes,
    )

    kind, name = project.initial_model(recipe, stage)
    if kind == "stage":
        name = project.model_of[recipe, "base"]
    folder = Path(paths.model_folder(name))
    if not Path(paths.model_lock(name)).is_file():
        target = paths.model_lock(name)
        return {
            "missing": f"the base is not there yet: snakemake --profile profiles/local {target}"
        }
    options = project.train[recipe, stage]
    family = project.modules.load("families", options["family"])
    shapes, architecture = read_shapes(folder), read_architecture(folder)
    tokens = data["max_length"] * hardware.micro_batch
    visual = data["visual_tokens"] / data["tokens"]
    supervised = data["supervised_tokens"]
    share = 1 - visual if supervised is None else supervised / data["tokens"]
    # A tower that merges tokens has all patches in its first block and the visual tokens at last.
    patches = (data["patches"] + data["visual_tokens"] * family.MERGE**2) / 2 / data["tokens"]
    forward = Forward(tokens, round(tokens * patches), min(tokens, round(tokens * share)))
    counts = parameter_counts(shapes, family)
    trained = sum(counts[part] for part in counts if options["tune"][part]["mode"] == "full")
    return {
        "parameters": counts,
        "trainable_parameters": trained + lora_parameters(shapes, family, options["tune"]),
        "bytes": device_bytes(shapes, architecture, family, options, forward, hardware),
    }


def stage_time(
    recipe: str, stage: str, data: Json, hardware: Hardware, speed: float | None
) -> Json | None:
    """Hours from the given tokens a second of one device, else from an earlier training's."""
    if speed:
        hours = data["tokens"] / speed / 3600
        return {
            "tokens_per_second": speed,
            "source": "given, a device",
            "device_hours": hours,
            "hours": hours / hardware.ranks,
        }
    if (measured := measured_speed(recipe, stage)) is None:
        return None
    return {
        "tokens_per_second": measured[0],
        "source": f"measured, {measured[1]}",
        "device_hours": None,
        "hours": data["tokens"] / measured[0] / 3600,
    }


def measured_speed(recipe: str, stage: str) -> tuple[float, Path] | None:
    """The median step's tokens a second, and the journal, of the stage's last training."""
    from shardline.paths import RESULTS
    from shardline.training.journal import METRICS, read_journal

    journals = Path(RESULTS).glob(f"checkpoints/{recipe}/{stage}/work/*/{METRICS}")
    for journal in sorted(journals, key=lambda path: path.stat().st_mtime, reverse=True):
        values = [
            row["metrics"]["tokens_per_second"]
            for row in read_journal(journal.parent)
            if "tokens_per_second" in row["metrics"]
        ]
        if values:
            return statistics.median(values), journal
    return None


def describe(recipe: str, stage: str, found: Json) -> str:
    """An estimate as text."""
    from shardline.cli.text import table
    from shardline.reporting.numbers import count, per_cent, plural, size

    data, memory, time = found["data"], found["memory"], found["time"]
    text = data["tokens"] - data["visual_tokens"]
    rows = [
        ("data", f"from {data['source']}"),
        ("samples", f"{count(data['samples'])} drawn, {count(data['distinct_samples'])} different"),
        (
            "tokens",
            f"{count(data['tokens'])}: {count(data['visual_tokens'])} visual, {count(text)} text",
        ),
        ("packs", f"{count(data['packs'])}, {per_cent(data['fill'])} full"),
        ("steps", f"{count(data['steps'])}, {plural(data['packs_a_step'], 'pack')} each at most"),
    ]
    if data["left_out"]:
        reasons = (f"{count(number)} {reason}" for reason, number in data["left_out"].items())
        rows.append(("left out", ", ".join(reasons)))
    if same := data.get("equivalent"):
        factors = same["learning_rate_factor"]
        updates = plural(round(same["updates"]), "update")
        rows.append(
            (
                "as",
                f"{updates} of {plural(same['reference_samples'], 'sample')}: "
                f"a step has {same['samples_per_step']:,.1f}; their learning rate times "
                f"{factors['square_root']:.2f} (square root) or {factors['linear']:.2f} (linear)",
            )
        )
    if "missing" in memory:
        rows.append(("memory", memory["missing"]))
    else:
        parts = ", ".join(
            f"{name} {count(number)}" for name, number in memory["parameters"].items()
        )
        total = sum(memory["parameters"].values())
        rows.append(("parameters", f"{count(total)} ({parts})"))
        rows.append(("trained", count(memory["trainable_parameters"])))
        rows.append(
            (
                "memory",
                f"{size(memory['bytes']['total'])} a device, an estimate ({found['hardware']})",
            )
        )
        rows += [
            ("", f"{name} {size(number)}")
            for name, number in memory["bytes"].items()
            if name != "total"
        ]
    if time is None:
        rows.append(("time", "unknown: give --tokens-per-second"))
    else:
        speed = f"{time['tokens_per_second']:,.0f} tokens/s ({time['source']})"
        rows.append(("time", f"{duration(time['hours'])} at {speed}"))
        if time["device_hours"] is not None:
            rows.append(("", f"{time['device_hours']:.2f} GPU-hours"))
    return f"{recipe} / {stage}\n{table(rows, indent='  ')}"


def duration(hours: float) -> str:
    """Hours as a person says them: ``34 s``, ``12 min``, ``3.4 h``."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.1f} h"
