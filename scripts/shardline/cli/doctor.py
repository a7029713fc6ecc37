"""`shardline doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

HELP = "check this machine: packages, GPUs, memory, disk, network settings, tools"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="look for GPUs with torch even if no device file is there",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print one line a check; status 1 if something required is not there."""
    from shardline.build_tools import offload_checks
    from shardline.cli.text import printable, show_json, table
    from shardline.environment import environment_checks
    from shardline.machine import machine_checks
    from shardline.paths import RESULTS

    checks = [*environment_checks(), *machine_checks(Path(RESULTS), arguments.gpu)]
    checks += offload_checks()
    failed = [check.name for check in checks if check.required and check.state != "ok"]
    if arguments.json:
        show_json({"ready": not failed, "checks": [asdict(check) for check in checks]})
    else:
        rows = []
        for check in checks:
            rows.append((check.state, check.name, printable(check.found)))
            rows += [("", "", f"-> {check.advice}")] if check.advice else []
        print(table(rows))
        print(f"\nnot ready: {', '.join(failed)}" if failed else "\nready")
    if failed:
        sys.exit(1)
