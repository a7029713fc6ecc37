"""Write the kept samples of one shard, with their media, into a WebDataset tar.

Called by rule `write_image_shard` (rules/filter.smk).

Example:
    python scripts/write_image_shard.py --dataset my_screens --shard 00000-png \
        --decisions results/filtered/my_screens/dedup-1a2b3c4d/decisions.json \
        --converted results/converted/my_screens --raw results/raw/my_screens \
        --output results/filtered/my_screens/dedup-1a2b3c4d/shard-00000-png.tar

In:
    results/filtered/<dataset>/<variant>/decisions.json, decisions-<shard>.jsonl
    results/converted/<dataset>/samples-*.jsonl.zst, results/raw/<dataset>/
Out:
    results/filtered/<dataset>/<variant>/shard-<shard>.tar
        <key>.json         {"id", "dataset", "sample": the whole sample as a JSON string}
        <key>.0.<ext>      the first medium, as it is in raw; and so on
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.image_shards import write_image_shard


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the shard."""
    parser = argparse.ArgumentParser(
        description="Write one shard of kept samples with their media.", allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--shard", required=True, help="name of the shard, e.g. 00000-png")
    parser.add_argument("--decisions", type=Path, required=True, help="summary of the decisions")
    parser.add_argument("--converted", type=Path, required=True, help="the converted dataset")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data")
    parser.add_argument("--output", type=Path, required=True, help="where the tar goes")
    arguments = parser.parse_args(argv)
    write_image_shard(
        dataset=arguments.dataset,
        shard=arguments.shard,
        decisions=arguments.decisions,
        converted=arguments.converted,
        raw=arguments.raw,
        output=arguments.output,
    )


if __name__ == "__main__":
    run_program(main)
