"""Training the quality classifier from a labelled dataset, to a folder and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shardline import folders
from shardline.classifier import labelled, network
from shardline.classifier.learning import Training, say
from shardline.classifier.pixels import stored_squares
from shardline.devices import device_name
from shardline.files import file_entry, sha256_file, short_hash, write_json
from shardline.hardware import Hardware
from shardline.lease import beside, lease
from shardline.parallel import Workers
from shardline.versions import package_versions

KEY_DIGITS = 12
STATE = "state.pt"
SQUARES = "squares.bin"


def train(
    *,
    options: dict[str, Any],
    converted: Path,
    raw: Path,
    weights: Path | None,
    folder: Path,
    manifest: Path,
    code: str,
    hardware: Hardware,
    threads: int,
) -> dict[str, Any]:
    """Train a classifier; write its folder, then the manifest with the report.

    Args:
        options: ``scorer_options``, see `shardline.classifier.options`.
        converted: manifest of the labelled dataset.
        raw: folder of its raw data.
        weights: folder of the model to start from, None for random weights.
        folder: where ``model.safetensors`` and ``config.json`` go.
        manifest: where the manifest goes.
        code: fingerprint of this program: other code does not go on with what it left.
        threads: CPU threads; those that the preset's loader processes leave compute.

    Returns:
        The manifest.

    Raises:
        DataError: not both good and bad images, weights of another architecture, or a loss that
            is not finite.
    """
    chosen = options["scorer_options"]
    with lease(beside(folder), say=say):
        manifest.unlink(missing_ok=True)
        source = network.weights_file(weights) if weights else None
        sources = [sha256_file(file) if file else "" for file in (converted, source)]
        key = short_hash([chosen, code, *sources], KEY_DIGITS)
        work = folders.unfinished(folder, key)
        data = labelled.read_labelled(converted, chosen["good"])
        parts = labelled.split(data, chosen["seed"])
        say(f"{data.counts} images; {labelled.part_counts(data, parts)}")
        with Workers(threads) as workers:
            files = [raw / path for path in data.paths]
            pixels = stored_squares(work / SQUARES, files, chosen["image_size"], workers)
        torch.set_num_threads(max(1, threads - hardware.workers))
        torch.use_deterministic_algorithms(True, warn_only=hardware.device == "cuda")
        training = Training(chosen, data, parts, pixels, hardware)
        if weights:
            network.load_backbone(training.model, weights)
        training.run(work / STATE)
        new = work / "model"
        folders.remove(new)
        config = {key: chosen[key] for key in ("architecture", "image_size", "good")}
        network.save_model(new, config, training.progress.best)
        report = training.report()
        folders.install(new, folder)
        content = {
            "stage": "train_classifier",
            "labels": chosen["labels"],
            "options": chosen,
            "weights": {"source": chosen["weights"], "sha256": sources[1]} if weights else "random",
            "images": data.counts,
            "contents": labelled.part_counts(data, parts),
            "contradicting": data.contradicting,
            **report,
            "files": [file_entry(folder / name) for name in (network.CONFIG, network.WEIGHTS)],
            "device": device_name(hardware.device),
            "versions": package_versions("pillow", "torch", "torchvision"),
        }
        write_json(manifest, content)
        folders.remove(work)
    return content
