"""Turn one shard of images and samples into a shard of tokens and resized images.

Called by the rule tokenize_shard, once a shard of a filtered dataset:

    python scripts/tokenize_shard.py \\
        --options '{"family": "qwen2_vl", "task": "grounding", "tokens": {...}, "plugins": []}' \\
        --shard results/filtered/screens/plain/shard-00000-png.tar \\
        --model results/raw/models/tiny \\
        --output results/tokens/screens/tiny/shard-00000-png.tar \\
        --index results/tokens/screens/tiny/shard-00000-png.index.parquet \\
        --rejects results/tokens/screens/tiny/shard-00000-png.rejects.jsonl

in:  the shard; tokenizer.json of the model
out: shard-00000-png.tar             json, 0.png, input_ids.npy, labels.npy a sample
     shard-00000-png.index.parquet   lengths, grids and member offsets, one row a sample
     shard-00000-png.rejects.jsonl   samples that cannot be used, and why
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import registry
from shardline.errors import run_program
from shardline.tokenising import tokenise_shard


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and tokenise the shard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--shard", type=Path, required=True, help="image shard to read")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--output", type=Path, required=True, help="token shard to write")
    parser.add_argument("--index", type=Path, required=True, help="its index to write")
    parser.add_argument("--rejects", type=Path, required=True, help="rejected samples to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    plugins = options.get("plugins", [])
    tokenise_shard(
        arguments.shard,
        output=arguments.output,
        index=arguments.index,
        rejects=arguments.rejects,
        family_name=options["family"],
        family=registry.load("families", options["family"], plugins),
        task=registry.load("tasks", options["task"], plugins),
        model=arguments.model,
        options=options["tokens"],
    )


if __name__ == "__main__":
    run_program(main)
