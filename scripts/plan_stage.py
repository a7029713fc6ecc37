"""Plan a training stage: check every sample, draw the mixture, pack it, fix the order.

Called by the rule plan_stage, once a stage of a recipe, and by plan_validation with
``"part": "validation"`` for what the recipe holds out:

    python scripts/plan_stage.py \\
        --options '{"recipe": "demo", "stage": "sft", "method": "sft", "seed": 42,
                    "mixture": [{"dataset": "screens", "percent": 100}], "family": "qwen2_vl",
                    "global_batch": {"samples": 32}, "steps": 700, "epochs": null,
                    "max_length": 1024, "packing": null, "too_long": "reject", ...}' \\
        --tokens results/tokens/screens/tiny/manifest.json \\
        --plan results/plans/demo/sft.json --parquet results/plans/demo/sft.parquet \\
        --rejects results/plans/demo/sft.rejects.jsonl

in:  token manifests and the indexes they name (no tar is opened, no image is decoded); with the
     option token_merging, config.json of a model with the tower that merges
out: sft.json            steps, packs, tokens, shares, hashes of the shards
     sft.parquet         one row a pack, in training order
     sft.rejects.jsonl   samples that preflight refused, and why
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import registry
from shardline.errors import ConfigError, run_program
from shardline.plan import write_plan


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument(
        "--tokens", type=Path, required=True, nargs="+", help="manifests of the token datasets"
    )
    parser.add_argument(
        "--model", type=Path, nargs="?", help="folder of a model with the tower that merges tokens"
    )
    parser.add_argument("--plan", type=Path, required=True, help="summary to write")
    parser.add_argument("--parquet", type=Path, required=True, help="packs to write")
    parser.add_argument("--rejects", type=Path, required=True, help="rejected samples to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    family = registry.load("families", options["family"], options.get("plugins", []))
    merging = None
    if section := options.get("token_merging"):
        if arguments.model is None:
            raise ConfigError("--model: the option `token_merging` needs a model's config.json")
        merging = family.merging_of(section, arguments.model)
    write_plan(
        arguments.tokens,
        options,
        family,
        merging=merging,
        plan=arguments.plan,
        parquet=arguments.parquet,
        rejects=arguments.rejects,
    )


if __name__ == "__main__":
    run_program(main)
