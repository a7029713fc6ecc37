"""`shardline accept`: declare that a changed module still makes the same results.

A refactoring changes a module's fingerprint and would rerun every stage that imports it. `accept`
writes to a committed file that the module's new fingerprint equals the old one, by whom and why;
comments, docstrings and formatting need no acceptance. Parameters are never accepted away.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
from pathlib import Path

from shardline import fingerprint
from shardline.errors import UserError
from shardline.files import read_json, write_json

HELP = "declare that a changed module still makes the same results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("module", help="file that changed, e.g. scripts/shardline/plan.py")
    parser.add_argument("--why", required=True, help="why the results are the same")
    parser.add_argument("--who", help="default: the name in git's config")
    parser.add_argument(
        "--since",
        default="HEAD",
        help="the git revision that the existing results were made with; default: HEAD",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the acceptance.

    Raises:
        UserError: the file is not part of the project or does not differ from that revision.
    """
    file = Path(arguments.module)
    if not file.resolve().is_relative_to(fingerprint.SCRIPTS) or not file.is_file():
        raise UserError(f"{file}: not a Python file under scripts/")
    name = str(file.resolve().relative_to(fingerprint.ROOT))
    new = fingerprint.module_digest(file.resolve())
    old = fingerprint.source_digest(_git("show", f"{arguments.since}:{name}"), name)
    if new == old:
        raise UserError(f"{name} is the same code as in {arguments.since}: nothing to accept")
    target = fingerprint.ROOT / fingerprint.ACCEPTED
    entries = read_json(target) if target.is_file() else []
    if any((entry["module"], entry["new"]) == (name, new) for entry in entries):
        raise UserError(f"{name}@{new} is accepted already (see {fingerprint.ACCEPTED})")
    entry = {
        "module": name,
        "old": old,
        "new": new,
        "who": arguments.who or _git("config", "user.name").strip(),
        "why": arguments.why,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(target, [*entries, entry])
    print(f"{name}: {new} now counts as {old}; commit {fingerprint.ACCEPTED} with the change")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=fingerprint.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
