"""Train the quality classifier on labelled images.

Called by rule `train_classifier` (rules/score.smk).

Example:
    python scripts/train_classifier.py \
        --options '{"scorer": "classifier", "scorer_options": {"labels": "vase_labels", ...}}' \
        --converted results/converted/vase_labels/manifest.json \
        --raw results/raw/vase_labels --weights "" --code 1f2e3d4c \
        --folder results/classifiers/classifier-9a8b7c6d \
        --manifest results/classifiers/classifier-9a8b7c6d.json \
        --hardware config/hardware/cpu.yaml --threads 2

In:
    a converted dataset whose samples have meta.label, and its raw images; maybe initial weights
Out:
    results/classifiers/<scores>/model.safetensors    the weights
    results/classifiers/<scores>/config.json          architecture and image size
    results/classifiers/<scores>.json                 hashes, curves, what it gets right and wrong
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.classifier.training import train
from shardline.errors import run_program
from shardline.hardware import load_hardware


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON: scorer, scorer_options, plugins"
    )
    parser.add_argument("--converted", type=Path, required=True, help="the dataset's manifest")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--weights", required=True, help="folder of initial weights, or empty")
    parser.add_argument("--folder", type=Path, required=True, help="the classifier's folder")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    parser.add_argument("--code", required=True, help="fingerprint of the training code")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware preset")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    arguments = parser.parse_args(argv)
    train(
        options=arguments.options,
        converted=arguments.converted,
        raw=arguments.raw,
        weights=Path(arguments.weights) if arguments.weights else None,
        folder=arguments.folder,
        manifest=arguments.manifest,
        code=arguments.code,
        hardware=load_hardware(arguments.hardware),
        threads=arguments.threads,
    )


if __name__ == "__main__":
    run_program(main)
