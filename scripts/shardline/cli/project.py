"""Opening the project of the current directory for a sub-command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from shardline.errors import UserError

if TYPE_CHECKING:
    from shardline.config.project import Project
    from shardline.config.schema import Config


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--configfile``."""
    parser.add_argument(
        "--configfile",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="your own config over the project's, as given to snakemake; may be repeated",
    )


def add_recipe_options(parser: argparse.ArgumentParser, stage: str) -> None:
    """Declare the recipe, ``--stage`` with help text ``stage``, and ``--configfile``."""
    parser.add_argument("recipe", help="a recipe of the config")
    parser.add_argument("--stage", help=stage)
    add_config_option(parser)


def load_config(files: list[Path]) -> Config:
    """The project's config with the user's files over it."""
    from shardline.config.layers import load, project_layers, read_layer

    return load([*project_layers(Path.cwd()), *(read_layer(file) for file in files)])


def open_recipes(files: list[Path], recipes: list[str] | None = None) -> Project:
    """The project as if ``recipes`` were to be built; all recipes of the config by default.

    Raises:
        UserError: no such recipe, or the config is wrong.
    """
    from shardline.config.project import Project

    config = load_config(files)
    names = sorted(config.recipes) if recipes is None else recipes
    if unknown := sorted(set(names) - set(config.recipes)):
        raise UserError(
            f"no recipe is named {unknown[0]!r}; there are: {', '.join(sorted(config.recipes))} "
            "(recipes of your own come with --configfile)"
        )
    return Project(config.model_copy(update={"build": names}), Path.cwd())


def pick_stage(project: Project, recipe: str, stage: str | None) -> str:
    """``stage``, checked; the first one by default.

    Raises:
        UserError: the recipe has no such stage.
    """
    names = [entry.name for entry in project.config.recipes[recipe].stages]
    if stage is None:
        return names[0]
    if stage not in names:
        raise UserError(f"recipe {recipe} has no stage {stage!r}; its stages: {', '.join(names)}")
    return stage
