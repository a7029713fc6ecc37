"""Labelled pictures, and small classifiers of them."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image

import score_image_shard
import train_classifier
from raw_datasets import command_line, lock_and_convert, samples_of, save
from shardline.classifier.network import build, save_model
from shardline.classifier.options import DEFAULTS
from shardline.files import read_json, read_jsonl, sha256_file, write_json

SMALL = {"labels": "labels", "architecture": "resnet18", "image_size": 32, "batch": 16}


def vase(seed: int, good: bool, side: int = 40) -> Image.Image:
    """A noisy picture: a bright disc is good, a dark one is not."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    disc = (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2
    grey = random.integers(60, 120, (side, side, 3))
    grey[disc] += 120 if good else -50
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def labelled(tmp_path, bad: int, good: int, name: str = "labels", **options):
    """A converted dataset of drawn vases; returns the folder of results."""
    for label, count in enumerate((bad, good)):
        for number in range(count):
            file = tmp_path / name / str(label) / f"{number:03}.png"
            save(vase(1000 * label + number, bool(label)), file)
    results = tmp_path / "results"
    lock_and_convert(results, name, tmp_path / name, "labelled_images", None, **options)
    return results


def hardware(tmp_path, **values):
    file = tmp_path / f"preset-{'-'.join(map(str, values.values()))}.yaml"
    write_json(file, values)
    return file


def arguments(
    tmp_path, place="c", threads=1, workers=0, checkpoint_every=1000, weights="", **options
):
    """The command line of a training of tmp_path/results/classifiers/<place>."""
    results = tmp_path / "results"
    chosen = {**DEFAULTS, **SMALL, **options}
    return command_line(
        options=json.dumps({"scorer": "classifier", "scorer_options": chosen}),
        converted=results / "converted" / chosen["labels"] / "manifest.json",
        raw=results / "raw" / chosen["labels"],
        weights=weights,
        code="abc",
        folder=results / "classifiers" / place,
        manifest=results / f"classifiers/{place}.json",
        hardware=hardware(tmp_path, workers=workers, checkpoint_every=checkpoint_every),
        threads=threads,
    )


def train(tmp_path, **options):
    train_classifier.main(arguments(tmp_path, **options))
    return read_json(tmp_path / f"results/classifiers/{options.get('place', 'c')}.json")


def untrained(tmp_path, seed):
    """A classifier of random weights at tmp_path/results/classifiers/c."""
    torch.manual_seed(seed)
    folder = tmp_path / "results/classifiers/c"
    config = {"architecture": "resnet18", "image_size": 32}
    save_model(folder, config, build("resnet18").state_dict())
    write_json(folder.with_suffix(".json"), {"sha256": sha256_file(folder / "model.safetensors")})


def score(tmp_path, name, threads=1, code="1", model="c", block="00000"):
    """Score a converted shard; what made the scores, and the score of each image's path."""
    results = tmp_path / "results"
    output = results / f"scores/{name}/{model}/scores-{block}.jsonl"
    score_image_shard.main(
        [
            *command_line(
                dataset=name,
                options=json.dumps({"scorer": "classifier", "scorer_options": SMALL}),
                converted=results / f"converted/{name}/samples-{block}.jsonl.zst",
                raw=results / "raw" / name,
                model=results / "classifiers" / model,
                code=code,
                output=output,
                hardware=hardware(tmp_path),
                threads=threads,
            ),
            "--model-manifest",
            str(results / f"classifiers/{model}.json"),
        ]
    )
    made, *rows = read_jsonl(output)
    paths = {
        medium["sha256"]: medium["path"] for s in samples_of(results, name) for medium in s["media"]
    }
    return made, {paths[row["sha256"]]: row["score"] for row in rows}
