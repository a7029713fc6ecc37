"""`shardline preview`: a page of samples as the model sees them, and of the first packs."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardline.cli.project import add_recipe_options
from shardline.errors import UserError

HELP = "write a page with samples as the model sees them: pixels, tokens, loss mask, packs"
MOST_SAMPLES = 200  # the page holds every picture without loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_recipe_options(parser, stage="a training stage; default: the first")
    parser.add_argument(
        "--validation", action="store_true", help="what the recipe's `split` holds out instead"
    )
    parser.add_argument("--samples", type=int, default=8, help="how many; default: 8")
    parser.add_argument(
        "--output",
        type=Path,
        help="the page; default: results/previews/<recipe>-<stage>[-validation].html",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the page and say where it is.

    Raises:
        UserError: no such recipe or stage, nothing is tokenised yet, or nothing is held out.
    """
    from shardline.cli.project import open_recipes, pick_stage
    from shardline.files import atomic_file
    from shardline.paths import RESULTS
    from shardline.preview import Preview

    if not 1 <= arguments.samples <= MOST_SAMPLES:
        raise UserError(f"--samples {arguments.samples}: from 1 to {MOST_SAMPLES}")
    recipe = arguments.recipe
    project = open_recipes(arguments.configfile, [recipe])
    stage = pick_stage(project, recipe, arguments.stage)
    part = "-validation" if arguments.validation else ""
    preview = Preview(project, recipe, stage, Path(RESULTS), arguments.validation)
    page = preview.render(arguments.samples)
    output = arguments.output or Path(RESULTS) / "previews" / f"{recipe}-{stage}{part}.html"
    with atomic_file(output, "w") as file:
        file.write(page)
    print(f"{output}\n{output.resolve().as_uri()}")
