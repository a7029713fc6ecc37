"""Build a base model from a config file: random weights, a tokenizer of the recipe's own text.

Called by the rule build_model (rules/sources.smk), for recipes with ``base: init:<file>``:

    python scripts/build_model.py --model tiny \\
        --options '{"config": {...}, "family": "qwen2_vl", "task": "grounding", "tokens": {...}}' \\
        --converted results/converted/screens/manifest.json \\
        --raw results/raw/models/tiny --lock results/raw/models/tiny.lock.json \\
        --files results/raw/models/tiny.files.tsv

in:  converted samples (their text trains the tokenizer)
out: results/raw/models/tiny/             what stock transformers loads, with our chat template
     results/raw/models/tiny.files.tsv    path, bytes, sha256 of each file
     results/raw/models/tiny.lock.json    totals, written last
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import lean, registry
from shardline.errors import run_program
from shardline.lease import beside, lease
from shardline.model_building import build_model


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and build the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument(
        "--converted", type=Path, required=True, nargs="+", help="manifests of converted datasets"
    )
    parser.add_argument("--raw", type=Path, required=True, help="folder of the model to write")
    parser.add_argument("--lock", type=Path, required=True, help="lock to write")
    parser.add_argument("--files", type=Path, required=True, help="file list to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    plugins = options.get("plugins", [])
    lean.without(*lean.HEAVY)
    with lease(beside(arguments.raw)):
        build_model(
            arguments.model,
            options,
            arguments.converted,
            family=registry.load("families", options["family"], plugins),
            task=registry.load("tasks", options["task"], plugins),
            raw=arguments.raw,
            lock=arguments.lock,
            files=arguments.files,
        )


if __name__ == "__main__":
    run_program(main)
