"""Export a finished stage as one model: its base with the adapter merged, or its full weights.

Called by the rule merge_model, once a stage that exports `merged`, is evaluated or is built on:

    python scripts/merge_model.py \\
        --options '{"family": "qwen2_vl", "min_visual_tokens": 4, "max_visual_tokens": 64}' \\
        --result results/checkpoints/demo/adapt/result.json \\
        --model results/models/demo/sft/merged \\
        --model-manifest results/models/demo/sft/merged.json \\
        --folder results/models/demo/adapt/merged \\
        --manifest results/models/demo/adapt/merged.json \\
        --threads 2

in:  result.json and the weights it names, or with the option `export_from` (best or step:<n>) one
     of its checkpoints; the folder that the stage was initialised from
out: merged/       weights, config, processor, chat template: stock transformers loads it
     merged.json   hashes, and the merge parity report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import lean, registry
from shardline.errors import run_program
from shardline.lease import beside, lease
from shardline.merging_family import family_of_stage


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--result", type=Path, required=True, help="result.json of the stage")
    parser.add_argument("--model", type=Path, required=True, help="what the stage started from")
    parser.add_argument("--model-manifest", type=Path, required=True, help="its lock or manifest")
    parser.add_argument("--folder", type=Path, required=True, help="model folder to write")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    arguments = parser.parse_args(argv)
    options = arguments.options
    lean.without(*lean.HEAVY)
    import torch

    from shardline.exporting.merge import merge_model

    torch.set_num_threads(arguments.threads)
    lean.quiet()
    family = registry.load("families", options["family"], options.get("plugins", ()))
    with lease(beside(arguments.folder)):
        merge_model(
            family_of_stage(family, options, arguments.model),
            arguments.result,
            arguments.model,
            arguments.model_manifest,
            arguments.folder,
            arguments.manifest,
            tuple(options[key] for key in ("min_visual_tokens", "max_visual_tokens")),
            options.get("export_from", "last"),
        )


if __name__ == "__main__":
    run_program(main)
