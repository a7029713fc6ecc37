"""Going on from a checkpoint of another stage's run: its weights and its optimiser's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shardline.errors import DataError
from shardline.files import read_json, sha256_file
from shardline.training import checkpoints
from shardline.training.inputs import Stage
from shardline.training.outcome import kept_checkpoint

OPTIMIZER = "optimizer.pt"


def parent_checkpoint(stage: Stage) -> Path | None:
    """The checkpoint whose run a stage extends, with every file's hash checked; None if none.

    Raises:
        ConfigError: that step was not kept.
        DataError: the checkpoint is damaged, has no optimiser, or its run began from other weights.
    """
    if not stage.parent:
        return None
    wanted = stage.options["continue_from"]
    result = read_json(stage.parent)
    if result["model_sha256"] != sha256_file(stage.model_manifest):
        raise DataError(f"{stage.parent}: began from other weights than {stage.model_manifest}")
    chosen = "last" if wanted["step"] == "last" else f"step:{wanted['step']}"
    folder = kept_checkpoint(stage.parent, result, chosen, "continue_from.step")
    if not checkpoints.sealed(folder):
        raise DataError(f"{folder}: damaged; train {wanted['stage']} again")
    if not (folder / OPTIMIZER).is_file():
        raise DataError(
            f"{folder}: has no {OPTIMIZER}: it was trained with DeepSpeed; start from its weights "
            f"alone with `init: {wanted['stage']}`"
        )
    return folder


def take_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Put the state that a checkpoint's optimiser has into another of the same parameters.

    Learning rates, weight decays and all other settings stay those of ``optimizer``.
    """
    saved = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
    own = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


def record(stage: Stage, checkpoint: Path | None) -> dict[str, Any]:
    """What run and result say of the run that is extended; nothing if there is none."""
    if not checkpoint:
        return {}
    key, step = read_json(stage.parent)["key"], checkpoints.step_of(checkpoint)
    name = stage.options["continue_from"]["stage"]
    return {"continues": {"stage": name, "key": key, "step": step}}
