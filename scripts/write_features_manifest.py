"""List the shards of a vision tower's outputs for a tokenised dataset.

Called by the rule write_features_manifest, when all shards of a dataset are computed:

    python scripts/write_features_manifest.py --dataset screens --variant tiny \\
        --features projected-1f2e3d4c --tokens results/tokens/screens/tiny/manifest.json \\
        --folder results/features/screens/tiny/projected-1f2e3d4c \\
        --manifest results/features/screens/tiny/projected-1f2e3d4c/manifest.json

in:  manifest of the token shards; the shards of features and their indexes in the folder
out: manifest.json   counts, hashes of every shard and index, devices and versions
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.features import write_features_manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--variant", required=True, help="name of the token variant")
    parser.add_argument("--features", required=True, help="name of the features")
    parser.add_argument("--tokens", type=Path, required=True, help="manifest of the token shards")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    arguments = parser.parse_args(argv)
    write_features_manifest(
        arguments.dataset,
        arguments.variant,
        arguments.features,
        tokens=arguments.tokens,
        folder=arguments.folder,
        manifest=arguments.manifest,
    )


if __name__ == "__main__":
    run_program(main)
