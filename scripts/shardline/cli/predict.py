"""`shardline predict`: one image and one question to any model of the project."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardline.cli.project import add_config_option
from shardline.errors import UserError

if TYPE_CHECKING:
    from shardline.config.project import Project

HELP = "ask a model about an image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--model", required=True, help="<recipe>/<stage>, <recipe>/base, or a model's folder"
    )
    parser.add_argument("--image", required=True, type=Path, help="an image file")
    parser.add_argument("--prompt", required=True, help="what to look for, e.g. 'the Save button'")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--question",
        action="store_true",
        help="put the prompt into the task's question, exactly as evaluation does (the default)",
    )
    how.add_argument("--raw-prompt", action="store_true", help="send the prompt as it is")
    parser.add_argument(
        "--recipe", help="with a folder: the recipe whose task and image sizes it was trained with"
    )
    parser.add_argument("--max-new-tokens", type=int, help="default: as the recipe evaluates")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the answer, and the point that it names.

    Raises:
        UserError: no such model or image.
    """
    from shardline.asking import Model, ask
    from shardline.cli.text import printable, show_json, table

    if not arguments.image.is_file():
        raise UserError(f"{arguments.image}: no such image")
    folder, options = find_model(arguments.model, arguments.recipe, arguments.configfile)
    if arguments.max_new_tokens is not None:
        if arguments.max_new_tokens < 1:
            raise UserError("--max-new-tokens must be at least 1")
        options["max_new_tokens"] = arguments.max_new_tokens
    found = ask(
        Model(folder=folder, options=options),
        arguments.image,
        arguments.prompt,
        raw=arguments.raw_prompt,
        device=arguments.device,
    )
    if arguments.json:
        show_json({"model": str(folder), **found})
        return
    rows = [("answer", printable(found["answer"]) or "(empty)")]
    if not arguments.raw_prompt:
        if found["point"] is None:
            rows.append(("point", "none that can be read"))
        else:
            x, y = found["point"]
            column, line = found["pixel"]
            size = f"{found['width']}x{found['height']}"
            rows.append(("point", f"{x:.4f}, {y:.4f} of width and height"))
            rows.append(("pixel", f"{column}, {line} of {size}"))
    print(table(rows))


def find_model(model: str, recipe: str | None, files: list[Path]) -> tuple[Path, dict[str, Any]]:
    """The folder of a model, and the options it answers with.

    Args:
        model: ``<recipe>/<stage>``, ``<recipe>/base`` or a folder; an export's folder below
            ``results/models`` knows its recipe itself.
        recipe: for other folders.

    Raises:
        UserError: neither a folder nor a model of the config.
    """
    from shardline import paths
    from shardline.cli.project import load_config, open_recipes, pick_stage

    path = Path(model)
    words = model.strip("/").split("/")
    if not path.is_dir() and len(words) == 2 and words[0] in load_config(files).recipes:
        project = open_recipes(files, [words[0]])
        if words[1] == "base":
            folder = Path(paths.model_folder(project.model_of[words[0], "base"]))
            return folder, options_of(project, words[0], None)
        stage = pick_stage(project, words[0], words[1])
        folder = Path(paths.model_of_lock(paths.export(words[0], stage, "merged")))
        return folder, options_of(project, words[0], stage)
    if not path.is_dir():
        raise UserError(
            f"--model {model}: neither a folder nor <recipe>/<stage> of this config (recipes: "
            f"{', '.join(sorted(load_config(files).recipes))})"
        )
    parts = path.resolve().parts
    if recipe is None and parts[-4:-3] == ("models",):
        project = open_recipes(files, [parts[-3]])
        return path, options_of(project, parts[-3], pick_stage(project, parts[-3], parts[-2]))
    if recipe is None:
        raise UserError(
            f"--model {model}: give --recipe too, whose task and image sizes the model was trained "
            "with"
        )
    return path, options_of(open_recipes(files, [recipe]), recipe, None)


def options_of(project: Project, recipe: str, stage: str | None) -> dict[str, Any]:
    """How a recipe's model is asked at evaluation; ``stage`` None is the base."""
    settings = project.config.recipes[recipe]
    tokens = (project.stage(recipe, stage).tokens if stage else None) or settings.tokens
    return {
        "family": settings.family,
        "task": tokens.task,
        "tokens": tokens.model_dump(exclude={"task"}),
        "max_new_tokens": settings.max_new_tokens,
        "plugins": project.modules.plugins,
    }
