"""Decide with a chain of filters which samples of a converted dataset are kept.

Called by rule `decide_filters` (rules/filter.smk). A filter that is a gate (overlap) fails here.

Example:
    python scripts/decide_filters.py --dataset my_screens --variant dedup-1a2b3c4d --threads 2 \
        --options '{"filters": [{"name": "dedup", "options": {}}], "earlier": [],
                    "benchmarks": []}' \
        --converted results/converted --raw results/raw \
        --decisions results/filtered/my_screens/dedup-1a2b3c4d/decisions.json

In:
    results/converted/<dataset>/, also of earlier datasets and benchmarks that filters compare with
    results/raw/<dataset>/, for the pictures
Out:
    results/filtered/<dataset>/<variant>/decisions-<shard>.jsonl    one decision a sample
    results/filtered/<dataset>/<variant>/decisions.json             counts and hashes, written last
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.filtering import decide


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and decide."""
    parser = argparse.ArgumentParser(
        description="Decide which samples of a dataset are kept.", allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--variant", required=True, help="name of the filter chain")
    parser.add_argument(
        "--options",
        type=json.loads,
        required=True,
        help="JSON object: filters (name and options each, in order), earlier and benchmarks "
        "(names of datasets), plugins",
    )
    parser.add_argument("--converted", type=Path, required=True, help="folder of all datasets")
    parser.add_argument("--raw", type=Path, required=True, help="folder of all raw datasets")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the image scores")
    parser.add_argument("--decisions", type=Path, required=True, help="where the summary goes")
    parser.add_argument("--threads", type=int, default=1, help="processes that hash images")
    arguments = parser.parse_args(argv)
    decide(
        dataset=arguments.dataset,
        variant=arguments.variant,
        options=arguments.options,
        converted=arguments.converted,
        raw=arguments.raw,
        scores=arguments.scores,
        decisions=arguments.decisions,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    run_program(main)
