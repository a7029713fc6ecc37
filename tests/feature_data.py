"""Features of small token shards, made by the programs that the rules run."""

from __future__ import annotations

import json
from pathlib import Path

import compute_features
import write_features_manifest
from shardline.files import read_json
from token_data import command_line

PRESET = "device: cpu\n"


def compute(
    tokens: Path,
    model: Path,
    *,
    family: str,
    point: str,
    precision: str = "fp32",
    name: str | None = None,
    threads: int = 1,
    preset: str = PRESET,
) -> Path:
    """Compute the features of a tokenised dataset; returns their manifest.

    Args:
        tokens: manifest of the token shards.
        model: its folder; its lock lies beside it.
        name: of the features; default: the point.
    """
    dataset, variant = tokens.parts[-3:-1]
    name = name or point
    folder = tokens.parents[3] / "features" / dataset / variant / name
    folder.mkdir(parents=True, exist_ok=True)
    hardware = folder / ".hardware.yaml"
    hardware.write_text(preset)
    for shard in read_json(tokens)["shards"]:
        arguments = {
            "options": json.dumps({"family": family, "point": point, "precision": precision}),
            "tokens": tokens.with_name(shard["name"]),
            "model": model,
            "model-manifest": model.with_suffix(".lock.json"),
            "hardware": hardware,
            "threads": threads,
            "output": folder / shard["name"],
            "index": folder / shard["index"],
        }
        compute_features.main(command_line(arguments))
    arguments = {
        "dataset": dataset,
        "variant": variant,
        "features": name,
        "tokens": tokens,
        "folder": folder,
        "manifest": folder / "manifest.json",
    }
    write_features_manifest.main(command_line(arguments))
    return folder / "manifest.json"
