"""Score the images of one converted shard with a scorer.

Called by rule `score_image_shard` (rules/score.smk).

Example:
    python scripts/score_image_shard.py --dataset vases \
        --options '{"scorer": "sharpness", "scorer_options": {}}' \
        --converted results/converted/vases/samples-00000.jsonl.zst --raw results/raw/vases \
        --model "" --model-manifest "" --code 1f2e3d4c \
        --hardware config/hardware/cpu.yaml --threads 2 \
        --output results/scores/vases/sharpness-44136fa3/scores-00000.jsonl

In:
    a converted shard, and the raw images that it names; the scorer's model, if it has one
Out:
    results/scores/<dataset>/<scores>/scores-<shard>.jsonl    what made them, then a line an image
    results/scores/<dataset>/<scores>/known-<shard>-*.npy     the same, kept for the next run
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.hardware import load_hardware
from shardline.scoring import score_shard


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON: scorer, scorer_options, plugins"
    )
    parser.add_argument("--converted", type=Path, required=True, help="converted shard")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--model", required=True, help="folder of the model, or empty")
    parser.add_argument("--model-manifest", required=True, help="its lock or manifest, or empty")
    parser.add_argument("--code", required=True, help="fingerprint of the scoring code")
    parser.add_argument("--output", type=Path, required=True, help="scores to write")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware preset")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    arguments = parser.parse_args(argv)
    score_shard(
        dataset=arguments.dataset,
        options=arguments.options,
        converted=arguments.converted,
        raw=arguments.raw,
        output=arguments.output,
        model=Path(arguments.model) if arguments.model else None,
        model_manifest=Path(arguments.model_manifest) if arguments.model_manifest else None,
        code=arguments.code,
        device=load_hardware(arguments.hardware).device,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    run_program(main)
