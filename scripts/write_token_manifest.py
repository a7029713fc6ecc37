"""Check the token shards of a dataset and sum them up in its manifest.

Called by the rule write_token_manifest, when all shards of a dataset are tokenised:

    python scripts/write_token_manifest.py --dataset screens --variant tiny --options '{...}' \\
        --filtered results/filtered/screens/plain/manifest.json \\
        --folder results/tokens/screens/tiny \\
        --manifest results/tokens/screens/tiny/manifest.json \\
        --rejects results/tokens/screens/tiny/rejects.jsonl

in:  manifest of the image shards; the token shards, their indexes and rejects in the folder
out: manifest.json   counts, and hashes of every shard and index
     rejects.jsonl   the rejected samples of all shards
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.token_manifest import write_token_manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--variant", required=True, help="name of the token variant")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON that the shards were made with"
    )
    parser.add_argument("--filtered", type=Path, required=True, help="manifest of the image shards")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the token shards")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    parser.add_argument("--rejects", type=Path, required=True, help="rejected samples to write")
    arguments = parser.parse_args(argv)
    write_token_manifest(
        arguments.dataset,
        arguments.variant,
        filtered=arguments.filtered,
        folder=arguments.folder,
        manifest=arguments.manifest,
        rejects=arguments.rejects,
    )


if __name__ == "__main__":
    run_program(main)
