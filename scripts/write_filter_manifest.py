"""List a filtered dataset's image shards, what its filters did, and every rejected sample.

Called by rule `write_filter_manifest` (rules/filter.smk).

Example:
    python scripts/write_filter_manifest.py \
        --decisions results/filtered/my_screens/dedup-1a2b3c4d/decisions.json \
        --folder results/filtered/my_screens/dedup-1a2b3c4d \
        --manifest results/filtered/my_screens/dedup-1a2b3c4d/manifest.json \
        --report results/filtered/my_screens/dedup-1a2b3c4d/report.json \
        --rejects results/filtered/my_screens/dedup-1a2b3c4d/rejects.jsonl

In:
    decisions.json, decisions-*.jsonl and shard-*.tar of results/filtered/<dataset>/<variant>/
Out, in the same folder:
    rejects.jsonl    every rejected sample with its reason
    report.json      options, figures and matches of each filter
    manifest.json    counts and hashes, written last
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.image_shards import write_filter_manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(
        description="List a filtered dataset's shards, counts and rejects.", allow_abbrev=False
    )
    parser.add_argument("--decisions", type=Path, required=True, help="summary of the decisions")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the image shards")
    parser.add_argument("--manifest", type=Path, required=True, help="where the manifest goes")
    parser.add_argument("--report", type=Path, required=True, help="where the report goes")
    parser.add_argument("--rejects", type=Path, required=True, help="where the rejects go")
    arguments = parser.parse_args(argv)
    write_filter_manifest(
        decisions=arguments.decisions,
        folder=arguments.folder,
        manifest=arguments.manifest,
        report=arguments.report,
        rejects=arguments.rejects,
    )


if __name__ == "__main__":
    run_program(main)
