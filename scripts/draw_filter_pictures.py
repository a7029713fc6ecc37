"""Draw what a chain of filters did to a dataset: score histograms and contact sheets.

Called by rule `draw_filter_pictures` (rules/filter.smk).

Example:
    python scripts/draw_filter_pictures.py \
        --decisions results/filtered/vases/clip_quality-1a2b3c4d/decisions.json \
        --results results --index results/filtered/vases/clip_quality-1a2b3c4d/pictures.json

In:
    the decisions, the converted samples, the scores and the raw images of the dataset, and those
    of the datasets that it has copies of
Out:
    results/filtered/<dataset>/<variant>/pictures/        SVG histograms, JPEG contact sheets
    results/filtered/<dataset>/<variant>/pictures.json    their titles and hashes, written last
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.reporting.filter_pictures import draw_filter_pictures


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--decisions", type=Path, required=True, help="the chain's summary")
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--index", type=Path, required=True, help="list of pictures to write")
    arguments = parser.parse_args(argv)
    draw_filter_pictures(
        decisions=arguments.decisions, results=arguments.results, index=arguments.index
    )


if __name__ == "__main__":
    run_program(main)
