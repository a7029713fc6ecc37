"""Convert a raw dataset to canonical samples, with every row checked and every image audited.

Called by rule `convert_dataset` (rules/convert.smk).

Example:
    python scripts/convert_dataset.py --dataset my_screens --threads 2 \
        --options '{"format": "showui", "frame": "unit_xyxy", "shard_rows": 5000,
                    "max_reject_share": 0.01, "max_pixels": 100000000}' \
        --raw results/raw/my_screens --lock results/raw/my_screens.lock.json \
        --manifest results/converted/my_screens/manifest.json \
        --rejects results/converted/my_screens/rejects.jsonl

In:
    results/raw/<dataset>/, results/raw/<dataset>.lock.json, results/raw/<dataset>.files.tsv
Out:
    results/converted/<dataset>/samples-*.jsonl.zst    canonical samples in source order
    results/converted/<dataset>/rejects.jsonl          what was not used, and why
    results/converted/<dataset>/manifest.json          counts and hashes, written last
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.convert import convert
from shardline.errors import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description="Convert a raw dataset to canonical samples.", allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument(
        "--options",
        type=json.loads,
        required=True,
        help="JSON object: format, frame, format_options, shard_rows (rows), max_reject_share "
        "(fraction), max_pixels (pixels an image), plugins",
    )
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--lock", type=Path, required=True, help="lock of the raw data")
    parser.add_argument("--manifest", type=Path, required=True, help="where the manifest goes")
    parser.add_argument("--rejects", type=Path, required=True, help="where the rejects go")
    parser.add_argument("--threads", type=int, default=1, help="processes that audit images")
    arguments = parser.parse_args(argv)
    gc.set_threshold(100_000)  # rows are many objects, hardly ever in circles
    convert(
        dataset=arguments.dataset,
        options=arguments.options,
        raw=arguments.raw,
        lock=arguments.lock,
        manifest=arguments.manifest,
        rejects=arguments.rejects,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    run_program(main)
