"""`shardline lineage`: from a step, a model or an answer back to raw files and licences."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shardline.cli.project import add_config_option
from shardline.errors import UserError

HELP = "trace a training step, a model or a benchmark item back to raw files and licences"
Json = dict[str, Any]
MOST_LABELS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--recipe", required=True, help="a recipe of the config")
    parser.add_argument("--stage", help="a training stage: alone, the data behind its model")
    parser.add_argument(
        "--step", type=int, help="a step of the stage, counted from 1 as in the log"
    )
    parser.add_argument("--item", help="a benchmark item, <sample id>#<box>; with --benchmark")
    parser.add_argument("--benchmark", help="the item's benchmark; default: the recipe's only one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Trace and print.

    Raises:
        UserError: options that do not go together, or nothing of that name.
    """
    from shardline.cli.project import open_recipes, pick_stage
    from shardline.cli.text import show_json
    from shardline.lineage import Lineage
    from shardline.paths import RESULTS

    recipe, stage = arguments.recipe, arguments.stage
    if (arguments.item is None) == (stage is None):
        raise UserError("give --stage (with --step for one step) or --item")
    project = open_recipes(arguments.configfile, [recipe])
    lineage = Lineage(project, Path(RESULTS))
    if arguments.item is not None:
        benchmark = pick_benchmark(project.config.recipes[recipe].evaluate, arguments.benchmark)
        found = lineage.of_item(recipe, benchmark, arguments.item)
        text = item_text(found)
    elif arguments.step is not None:
        stage = pick_stage(project, recipe, stage)
        found = lineage.of_step(recipe, stage, arguments.step)
        text = step_text(found)
    else:
        found = lineage.of_model(recipe, pick_stage(project, recipe, stage))
        text = "\n\n".join(model_texts(found))
    if arguments.json:
        show_json(found)
    else:
        print(text)


def pick_benchmark(known: list[str], wanted: str | None) -> str:
    """``wanted``, checked; the only benchmark by default.

    Raises:
        UserError: no such benchmark, or several to choose from.
    """
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        raise UserError(f"--benchmark: one of {', '.join(known) or '(the recipe has none)'}")
    return wanted


def step_text(found: Json) -> str:
    """A step's samples, pack by pack, and their sources."""
    from shardline.reporting.numbers import count, plural

    samples = found["samples"]
    tokens = sum(sample["tokens"] for sample in samples)
    lines = [
        f"step {found['step']} of {found['steps']} in {found['plan']}: "
        f"{plural(len(samples), 'sample')}, {count(tokens)} tokens"
    ]
    pack = None
    for sample in samples:
        if sample["pack"] != pack:
            pack = sample["pack"]
            lines.append(f"\npack {pack + 1}")
        lines.append(sample_text(sample, f"{count(sample['tokens'])} tokens, {sample['shard']}"))
    return "\n".join([*lines, "", sources_text(found["sources"])])


def sample_text(sample: Json, note: str = "") -> str:
    """One sample with its raw files."""
    from shardline.cli.text import printable, table

    labels = "; ".join(map(printable, sample["labels"][:MOST_LABELS]))
    if len(sample["labels"]) > MOST_LABELS:
        labels += f"; and {len(sample['labels']) - MOST_LABELS} more"
    files = [(f"sha256 {file['sha256']}", printable(file["path"])) for file in sample["files"]]
    lines = [f"  {printable(sample['id'])}  {note}".rstrip(), f"    asks for: {labels}"]
    return "\n".join([*lines, table(files, indent="    ")])


def item_text(found: Json) -> str:
    """A benchmark item with every model's answer, its sample and source."""
    from shardline.cli.text import printable, table

    target = found["target"]
    lines = [
        f"item {printable(found['item'])}",
        f"  target: {printable(target['label'])}, {target['box']} ({target['frame']})",
    ]
    rows = [
        (answer["model"], "hit" if answer["hit"] else "miss", printable(answer["answer"]))
        for answer in found["answers"]
    ]
    lines += [table(rows, indent="  ")] if rows else ["  no model was asked yet"]
    lines += ["", *(sample_text(sample) for sample in found["samples"])]
    return "\n".join([*lines, "", sources_text(found["sources"])])


def model_texts(found: Json) -> list[str]:
    """A stage's model, and below it what it started from, down to the base."""
    from shardline.cli.text import table
    from shardline.reporting.numbers import count

    rows = [
        ("result", found["result"]),
        *(("weights", f"{file['name']}  sha256 {file['sha256']}") for file in found["weights"]),
        (
            "trained",
            f"{count(found['steps'])} steps, {count(found['samples_drawn'])} samples "
            f"({count(found['samples_different'])} different)",
        ),
        *(
            ("shard", f"{shard['path']}  sha256 {shard['sha256']}")
            for shard in found["token_shards"]
        ),
        *(
            ("features", f"{file['path']}  sha256 {file['sha256']}  {', '.join(file['devices'])}")
            for file in found["features"]
        ),
    ]
    text = f"model {found['recipe']}/{found['stage']}\n{table(rows, indent='  ')}\n"
    start = found["initialised_from"]
    texts = [text + sources_text(found["sources"], indent="  ")]
    if start["kind"] == "stage":
        return texts + model_texts(start)
    return [*texts, f"base model {start['name']}\n{sources_text(start['sources'], indent='  ')}"]


def sources_text(sources: list[Json], indent: str = "") -> str:
    """Sources with revision, licence, size and the hash of their file list."""
    from shardline.cli.text import printable, table
    from shardline.redact import redact_text
    from shardline.reporting.numbers import plural, size

    rows = []
    for source in sources:
        revision = f" at {source['revision']}" if source["revision"] else ""
        rows += [
            ("source", source["name"], printable(redact_text(f"{source['source']}{revision}"))),
            ("", "licence", printable(source["licence"])),
            ("", "files", f"{plural(source['files'], 'file')}, {size(source['bytes'])}"),
            ("", "lock", f"{source['lock']}  files sha256 {source['files_sha256']}"),
        ]
    return table(rows, indent=indent)
