"""Export the LoRA adapter of a finished stage.

Called by the rule export_adapter, once a stage that exports its adapter:

    python scripts/export_adapter.py \\
        --result results/checkpoints/demo/adapt/result.json \\
        --folder results/models/demo/adapt/adapter \\
        --manifest results/models/demo/adapt/adapter.json

in:  result.json and the adapter it names, or with the option `export_from` one of its checkpoints
out: adapter/adapter_model.safetensors, adapter/adapter_config.json   as PEFT loads them
     adapter.json   the base model's name, number of tensors, hashes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.exporting.adapter import export_adapter
from shardline.lease import beside, lease


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--options", type=json.loads, default={}, help='JSON, such as {"export_from": "best"}'
    )
    parser.add_argument("--result", type=Path, required=True, help="result.json of the stage")
    parser.add_argument("--folder", type=Path, required=True, help="adapter folder to write")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write")
    arguments = parser.parse_args(argv)
    with lease(beside(arguments.folder)):
        export_adapter(
            arguments.result,
            arguments.folder,
            arguments.manifest,
            arguments.options.get("export_from", "last"),
        )


if __name__ == "__main__":
    run_program(main)
