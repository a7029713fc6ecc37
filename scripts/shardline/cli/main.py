"""The `shardline` command: looking at a project, checking it, and asking its models.

Each sub-command is a module with ``HELP``, ``add_arguments(parser)`` and ``run(arguments)``; only
the one that is called is imported, and what is heavy it imports inside ``run``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import UserError, run_program

COMMANDS = {
    "doctor": "shardline.cli.doctor",
    "preview": "shardline.cli.preview",
    "estimate": "shardline.cli.estimate",
    "verify": "shardline.cli.verify",
    "lineage": "shardline.cli.lineage",
    "predict": "shardline.cli.predict",
    "accept": "shardline.cli.accept",
    "gc": "shardline.cli.gc",
    "open": "shardline.cli.open_report",
    "mlflow": "shardline.cli.mlflow_ui",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command in the current directory, which must be a project."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = build_parser(words).parse_args(words)
    if not Path("Snakefile").is_file():
        raise UserError(
            f"{Path.cwd()} is no Shardline project: it has no Snakefile; run the command in the "
            "project's own folder"
        )
    arguments.run(arguments)


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the sub-command that ``words`` name, or with all of them for the help."""
    parser = argparse.ArgumentParser(
        prog="shardline",
        description="Look at a project, check it, ask its models.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    asked = [word for word in words[:1] if word in COMMANDS]
    for name in asked or COMMANDS:
        module = importlib.import_module(COMMANDS[name])
        sub = commands.add_parser(
            name, help=module.HELP, description=_sentence(module.HELP), allow_abbrev=False
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def run() -> None:
    """The console entry point: user errors end with status 1 and their message alone."""
    try:
        run_program(main)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python must not fail while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
