"""`shardline gc`: what nothing refers to any more, listed, and removed only when told."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardline.cli.project import add_config_option
from shardline.errors import UserError

HELP = "list what nothing refers to any more; --remove removes it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """List the waste and its size; with ``--remove`` free it.

    Raises:
        UserError: removing while Snakemake is running in this folder.
    """
    from shardline.cli.project import open_recipes
    from shardline.cli.text import show_json, table
    from shardline.controller import other_controllers
    from shardline.garbage import find_waste, remove
    from shardline.paths import RESULTS
    from shardline.reporting.numbers import plural, size

    results = Path(RESULTS)
    if arguments.remove and (running := other_controllers()):
        raise UserError(
            f"Snakemake is running here (process {running[0]}): wait until it has finished"
        )
    waste, notes = find_waste(open_recipes(arguments.configfile), results)
    if arguments.remove:
        for item in waste:
            remove(item, results)
    total = sum(item.bytes for item in waste)
    if arguments.json:
        rows = [{"path": str(item.path), "bytes": item.bytes, "why": item.why} for item in waste]
        show_json({"waste": rows, "bytes": total, "removed": arguments.remove, "notes": notes})
        return
    if waste:
        print(table([(size(item.bytes), item.path, item.why) for item in waste], right=(0,)))
    for note in notes:
        print(f"note: {note}")
    if not waste:
        print("nothing to remove")
    elif arguments.remove:
        print(f"removed {plural(len(waste), 'thing')}, {size(total)}")
    else:
        print(f"{size(total)} could be freed: shardline gc --remove")
