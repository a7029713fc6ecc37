"""Training a tiny model by the product's own Trainer, on rows without a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tiny_project import ADAMW

from shardline.hardware import Hardware
from shardline.training.arguments import trainer_arguments
from shardline.training.inputs import Stage
from shardline.training.metrics import StepMeter, StepTotals
from shardline.training.model import tuned_model
from shardline.training.packs import supervised
from shardline.training.trainer import PlanTrainer
from shardline.training.tuning import parameter_groups


def stage(
    work: Path, model: Path, tune: dict, checkpoint_every: int = 1000, **options: Any
) -> Stage:
    """A stage of one process on the CPU."""
    return Stage(
        options={"seed": 1, "precision": "fp32", "optimizer": ADAMW, "tune": tune, **options},
        plan=work,
        parquet=work,
        results=work,
        model=model,
        model_manifest=work,
        work=work,
        code="c0de",
        hardware=Hardware(name="cpu", checkpoint_every=checkpoint_every),
        threads=1,
    )


def train(
    stage: Stage,
    family: ModuleType,
    rows: Sequence[dict],
    steps: int,
    *,
    model: torch.nn.Module | None = None,
    going_on: bool = False,
) -> PlanTrainer:
    """The Trainer after some steps, each of one row, the rows taken in turn."""
    model = model or tuned_model(stage, family, torch.device("cpu"))
    told = [
        row | {"datasets": ["d"] * (len(row["cu_seq_lens_q"]) - 1), "packs": [number]}
        for number, row in enumerate(rows)
    ]
    cycle = [told[step % len(told)] for step in range(steps)]
    totals = [StepTotals(row["max_length_q"], len(supervised(row)), 1) for row in cycle]
    trainer = PlanTrainer(
        model,
        trainer_arguments(stage, 1, 1, steps, None),
        family=family,
        rows=lambda first: (row for row in cycle[first:]),
        meter=StepMeter(totals, ["d"], torch.device("cpu")),
        groups=parameter_groups(model, family, stage.options["tune"]),
        optimizer_options=stage.options["optimizer"],
        factor=lambda step: 1.0,
        stop=lambda: "",
        say=lambda line: None,
    )
    folders = sorted(stage.work.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=str(folders[0]) if going_on else None)
    return trainer
