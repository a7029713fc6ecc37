"""Write a converted or filtered dataset as the metadata file that ShowUI trains on.

No rule calls it; it is for taking a dataset elsewhere:

    python scripts/export_showui_metadata.py \\
        --manifest results/filtered/my_screens/dedup-1a2b3c4d/manifest.json \\
        --output exported/metadata/hf_train.json --rejects exported/rejects.jsonl \\
        --raw results/raw/my_screens --images exported/images

in:  manifest.json and its shards, of results/converted/<dataset>/ or
     results/filtered/<dataset>/<variant>/; with --images also the raw data
out: the metadata file   a list of {img_url, img_size, element[], element_size}
     the rejects         samples without boxes or with other media than one image
     the images          copies of the screenshots, by img_url
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.exporting.showui_metadata import export_showui_metadata


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--manifest", type=Path, required=True, help="the dataset's manifest.json")
    parser.add_argument("--output", type=Path, required=True, help="metadata file to write")
    parser.add_argument("--rejects", type=Path, required=True, help="where the rejects go")
    parser.add_argument("--raw", type=Path, help="folder of the raw data, for --images")
    parser.add_argument("--images", type=Path, help="folder to copy the screenshots to")
    arguments = parser.parse_args(argv)
    counts = export_showui_metadata(
        manifest=arguments.manifest,
        output=arguments.output,
        rejects=arguments.rejects,
        raw=arguments.raw,
        images=arguments.images,
    )
    print(
        f"{arguments.output}: {counts['kept']} of {counts['in']} samples; "
        f"{counts['rejected']} are in {arguments.rejects}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run_program(main)
