"""Compute what a frozen vision tower makes of the media of one token shard.

Called by the rule compute_features, once a token shard:

    python scripts/compute_features.py \\
        --options '{"family": "qwen2_vl", "point": "projected", "precision": "bf16"}' \\
        --tokens results/tokens/screens/tiny/shard-00000-png.tar \\
        --model results/raw/models/tiny --model-manifest results/raw/models/tiny.lock.json \\
        --hardware config/hardware/cpu.yaml --threads 2 \\
        --output results/features/screens/tiny/projected-1f2e3d4c/shard-00000-png.tar \\
        --index results/features/screens/tiny/projected-1f2e3d4c/shard-00000-png.index.parquet

in:  the token shard and its index; the model whose vision tower stays as it is
out: shard-00000-png.tar             json, 0.bf16.npy, 1.bf16.npy, ... a sample
     shard-00000-png.index.parquet   member offsets, one row a sample; what made them
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from shardline import lean, registry
from shardline.errors import run_program
from shardline.features import Features, TokenShard, write_features
from shardline.files import sha256_file
from shardline.hardware import Hardware, load_hardware
from shardline.versions import package_versions

PACKAGES = ("numpy", "torch", "transformers")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and compute."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--tokens", type=Path, required=True, help="token shard to read")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--model-manifest", type=Path, required=True, help="its lock")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware preset (YAML)")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    parser.add_argument("--output", type=Path, required=True, help="shard to write")
    parser.add_argument("--index", type=Path, required=True, help="its index to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    hardware = load_hardware(arguments.hardware)
    tokens = TokenShard(arguments.tokens)
    features: Iterable[Features] = ([] for _ in tokens.rows)
    device = "none"
    if tokens.has_media:
        lean.without(*lean.HEAVY)
        lean.quiet()
        device, features = _encoded(tokens, options, arguments.model, hardware, arguments.threads)
    write_features(
        tokens,
        features,
        output=arguments.output,
        index=arguments.index,
        facts={
            "family": options["family"],
            "point": options["point"],
            "precision": options["precision"],
            "dtype": "bfloat16",
            "model_sha256": sha256_file(arguments.model_manifest),
            "device": device,
            "versions": package_versions(*PACKAGES),
        },
    )


def _encoded(
    tokens: TokenShard, options: dict, model: Path, hardware: Hardware, threads: int
) -> tuple[str, Iterable[Features]]:
    """The name of the device, and the features of each sample."""
    from shardline.devices import device_name, repeatable
    from shardline.merging_family import family_of_stage
    from shardline.vision_features import DTYPES, VisionTower, encode_all

    device = repeatable(hardware.device)
    family = registry.load("families", options["family"], options.get("plugins", []))
    family = family_of_stage(family, options, model)
    precision = options["precision"]
    whole = family.load_model(model, DTYPES[precision], "cpu").eval()
    tower = VisionTower(whole, family, options["point"], precision).to(device)
    at_once = threads if hardware.device == "cpu" else 1
    rows = encode_all(tokens.media(), tower, hardware.vision_patches, at_once)
    return device_name(hardware.device), rows


if __name__ == "__main__":
    run_program(main)
