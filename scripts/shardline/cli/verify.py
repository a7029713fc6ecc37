"""`shardline verify`: the disk against locks and manifests, byte for byte."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from shardline.cli.project import add_config_option
from shardline.errors import UserError

if TYPE_CHECKING:
    from shardline.integrity import Entry, Listing

HELP = "check every file against the size and sha256 that its lock or manifest lists"
SECONDS = 5  # between two progress lines
MOST_THREADS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--recipe", help="only what this recipe's report rests on; default: all")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(MOST_THREADS, len(os.sched_getaffinity(0))),
        help="files hashed at a time",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Verify and print one line a part.

    Raises:
        UserError: a file is missing, damaged or unknown to its lock; the first one is named.
    """
    from shardline.cli.project import open_recipes
    from shardline.cli.text import show_json
    from shardline.integrity import (
        check,
        collect,
        manifests_of_recipe,
        manifests_of_results,
        version_notes,
    )
    from shardline.paths import RESULTS

    results = Path(RESULTS)
    if arguments.recipe:
        project = open_recipes(arguments.configfile, [arguments.recipe])
        manifests = manifests_of_recipe(project, arguments.recipe)
    else:
        manifests = manifests_of_results(results)
    if not manifests:
        raise UserError("results/ holds no lock and no manifest: there is nothing to verify")
    listing = collect(manifests, results)
    progress = _Progress(listing.bytes)
    checked = list(check(listing.entries, max(1, arguments.threads), progress.add))
    problems = listing.problems + [problem for _, problem in checked if problem]
    notes = version_notes(listing.manifests)
    if arguments.json:
        counts = {"files": len(checked), "bytes": listing.bytes, "manifests": len(manifests)}
        show_json({**counts, "problems": problems, "notes": notes})
    else:
        _show(listing, checked, problems, notes)
    if problems:
        raise UserError(
            f"{len(problems)} of {len(checked)} files or lists are not as recorded; the first: "
            f"{problems[0]}"
        )


def _show(
    listing: Listing, checked: list[tuple[Entry, str]], problems: list[str], notes: list[str]
) -> None:
    from shardline.cli.text import printable, table
    from shardline.reporting.numbers import plural, size

    parts: dict[str, list[tuple[Entry, str]]] = {}
    for entry, problem in checked:
        parts.setdefault(entry.part, []).append((entry, problem))
    rows = []
    for part, found in parts.items():
        bad = sum(bool(problem) for _, problem in found)
        total = sum(entry.size for entry, _ in found)
        rows.append((f"{bad} bad" if bad else "ok", part, plural(len(found), "file"), size(total)))
    if rows:
        print(table(rows, right=(2, 3)))
    for title, lines in (("problems", problems), ("notes: versions that changed", notes)):
        if lines:
            print(f"\n{title}")
            print("\n".join(f"  {printable(line)}" for line in lines))
    if not problems:
        print(f"\nall {plural(len(checked), 'file')} as recorded, {size(listing.bytes)} read")


class _Progress:
    """Says on the error stream every few seconds how far the hashing is."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.said = time.monotonic()
        self.lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        """Count one file; called from any thread."""
        from shardline.reporting.numbers import size

        with self.lock:
            self.done += entry.size
            if time.monotonic() - self.said >= SECONDS:
                self.said = time.monotonic()
                print(f"read {size(self.done)} of {size(self.total)}", file=sys.stderr)
