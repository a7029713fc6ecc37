"""List a dataset's image scores.

Called by rule `write_score_manifest` (rules/score.smk).

Example:
    python scripts/write_score_manifest.py --dataset vases \
        --options '{"scorer": "sharpness", "scorer_options": {}}' \
        --converted results/converted/vases/manifest.json \
        --folder results/scores/vases/sharpness-44136fa3 \
        --manifest results/scores/vases/sharpness-44136fa3/manifest.json

In:
    the scores of every converted shard
Out:
    results/scores/<dataset>/<scores>/manifest.json    files, hashes, what made them
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.scoring import list_scores


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON: scorer, scorer_options, plugins"
    )
    parser.add_argument("--converted", type=Path, required=True, help="the dataset's manifest")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    arguments = parser.parse_args(argv)
    list_scores(
        dataset=arguments.dataset,
        options=arguments.options,
        converted=arguments.converted,
        folder=arguments.folder,
        manifest=arguments.manifest,
    )


if __name__ == "__main__":
    run_program(main)
