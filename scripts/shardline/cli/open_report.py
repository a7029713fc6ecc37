"""`shardline open`: where a recipe's report is, and what it says at the top."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardline.errors import UserError

HELP = "say where a recipe's report is, and its scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("recipe", help="a recipe that was built")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print report, scores and how to go on.

    Raises:
        UserError: there is no report of this recipe.
    """
    from shardline.cli.text import show_json, table
    from shardline.files import read_json
    from shardline.paths import RESULTS, report
    from shardline.reporting.numbers import count, per_cent

    page = Path(report(arguments.recipe))
    summary = page.with_name("summary.json")
    if not page.is_file() or not summary.is_file():
        there = sorted(path.parent.name for path in Path(RESULTS).glob("reports/*/summary.json"))
        raise UserError(
            f"{page}: no such report; reports are there for: {', '.join(there) or 'no recipe'}; "
            f"make one: snakemake --profile profiles/local --config 'build=[{arguments.recipe}]'"
        )
    figures = read_json(summary)
    scores = figures["scores"]
    if arguments.json:
        show_json({"report": str(page), "scores": scores, "improvement": figures["improvement"]})
        return
    rows = [("benchmark", "model", "accuracy", "95 % interval", "items")]
    for benchmark, models in scores.items():
        for model, score in models.items():
            interval = f"{per_cent(score['low'])} – {per_cent(score['high'])}"
            rows.append(
                (benchmark, model, per_cent(score["accuracy"]), interval, count(score["n"]))
            )
    print(f"report   {page}\n         {page.resolve().as_uri()}\n")
    print(table(rows, right=(2, 3, 4)) if len(rows) > 1 else "no model was scored")
    for gate in figures["gates"]:
        if gate["passed"] is False:
            print(f"\ngate failed: {gate['name']} of {gate['stage']}: {gate['detail']}")
    print("\ncompare runs in MLflow: shardline mlflow")
