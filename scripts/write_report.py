"""Write a recipe's report: a page for people, its figures as JSON, and the model card.

Called by rule ``write_report`` (rules/report.smk).

Example::

    python scripts/write_report.py --options '{"recipe": "demo", ...}' --results results \\
        --output results/reports/demo/index.html --summary results/reports/demo/summary.json \\
        --card results/reports/demo/MODEL_CARD.md

Reads what the recipe's stages left under ``results/``; a file that is missing makes a line on the
page, not an error::

    results/raw/<d>.lock.json, converted/<d>/, filtered/<d>/<f>/, tokens/<d>/<t>/
    results/plans/<r>/, checkpoints/<r>/, models/<r>/, evals/<r>/, benchmarks/

Writes::

    results/reports/<r>/index.html, summary.json, MODEL_CARD.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.files import atomic_file, write_json
from shardline.redact import redact
from shardline.reporting.artefacts import Artefacts
from shardline.reporting.card import render_card
from shardline.reporting.page import render_page
from shardline.reporting.summary import summarise


def main(argv: Sequence[str] | None = None) -> None:
    """Collect the figures once, then write the three files from them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--options",
        type=json.loads,
        required=True,
        help="JSON: recipe, title, description, datasets, stages, benchmarks, models, base, config",
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    parser.add_argument("--summary", type=Path, required=True, help="the JSON of figures to write")
    parser.add_argument("--card", type=Path, required=True, help="the model card to write")
    arguments = parser.parse_args(argv)
    artefacts = Artefacts(arguments.results)
    summary = redact(summarise(arguments.options, artefacts))
    page = render_page(arguments.options, summary, artefacts)
    card = render_card(arguments.options, summary, artefacts)
    write_json(arguments.summary, summary)
    for path, text in ((arguments.card, card), (arguments.output, page)):
        with atomic_file(path, "w") as file:
            file.write(text)


if __name__ == "__main__":
    run_program(main)
