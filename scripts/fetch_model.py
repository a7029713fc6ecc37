"""Fetch a model from its source and lock the hash of every file.

Called by rule `fetch_model` (rules/sources.smk). Only this program and its sibling see the
network; the hub's token is read from HF_TOKEN.

Example:
    python scripts/fetch_model.py --model qwen2_vl_2b \
        --options '{"source": "folder:/data/qwen2_vl_2b"}' \
        --raw results/raw/models/qwen2_vl_2b --lock results/raw/models/qwen2_vl_2b.lock.json \
        --files results/raw/models/qwen2_vl_2b.files.tsv

In:
    a hub snapshot or a folder, as the source says
Out:
    results/raw/models/qwen2_vl_2b/             the files (a link where they are elsewhere)
    results/raw/models/qwen2_vl_2b.files.tsv    path, bytes, sha256 of each
    results/raw/models/qwen2_vl_2b.lock.json    totals and source, written last
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.fetching import fetch
from shardline.lease import beside, lease


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description="Fetch and lock a model.", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument(
        "--options",
        type=json.loads,
        required=True,
        help="JSON object: source (scheme:place), source_options, licence, plugins",
    )
    parser.add_argument("--raw", type=Path, required=True, help="where the files go")
    parser.add_argument("--lock", type=Path, required=True, help="where the lock goes")
    parser.add_argument("--files", type=Path, required=True, help="where the file list goes")
    parser.add_argument(
        "--shared", default="", help="a folder like results/raw, perhaps read-only, to link from"
    )
    arguments = parser.parse_args(argv)
    with lease(beside(arguments.raw)):
        fetch(
            name=arguments.model,
            kind="model",
            options=arguments.options,
            raw=arguments.raw,
            lock=arguments.lock,
            files=arguments.files,
            shared=Path(arguments.shared) if arguments.shared else None,
        )


if __name__ == "__main__":
    run_program(main, network=True)
