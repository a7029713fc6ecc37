"""Merge a LoRA adapter of another program into a base model, as a model to start from.

Called by the rule apply_adapter (rules/sources.smk), for `init: adapter+folder:…`:

    python scripts/apply_adapter.py --model lora-0123abcd \\
        --options '{"family": "qwen2_vl"}' \\
        --base-lock results/raw/models/base.lock.json \\
        --adapter-lock results/raw/models/lora.lock.json \\
        --raw results/raw/models/lora-0123abcd \\
        --lock results/raw/models/lora-0123abcd.lock.json \\
        --files results/raw/models/lora-0123abcd.files.tsv --threads 2

in:  the folders of the base and of the adapter (adapter_config.json, adapter_model.safetensors)
out: a model folder with the base's processor, its file list, and its lock, written last
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import lean, paths, registry
from shardline.errors import run_program
from shardline.lease import beside, lease


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and merge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--base-lock", type=Path, required=True, help="lock of the base model")
    parser.add_argument("--adapter-lock", type=Path, required=True, help="lock of the adapter")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the model to write")
    parser.add_argument("--lock", type=Path, required=True, help="lock to write")
    parser.add_argument("--files", type=Path, required=True, help="file list to write")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    arguments = parser.parse_args(argv)
    options = arguments.options
    lean.without(*lean.HEAVY)
    import torch

    from shardline.exporting.foreign_adapter import apply_adapter

    torch.set_num_threads(arguments.threads)
    lean.quiet()
    base, adapter = arguments.base_lock, arguments.adapter_lock
    with lease(beside(arguments.raw)):
        apply_adapter(
            arguments.model,
            registry.load("families", options["family"], options.get("plugins", ())),
            Path(paths.model_of_lock(str(base))),
            base,
            Path(paths.model_of_lock(str(adapter))),
            adapter,
            arguments.raw,
            arguments.lock,
            arguments.files,
        )


if __name__ == "__main__":
    run_program(main)
