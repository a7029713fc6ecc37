"""One process's part of a training: who it is, what it reads, and how a step is divided."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import TrainingArguments

from shardline import registry
from shardline.files import read_json
from shardline.hardware import check_devices, forwards
from shardline.loader import PlanDataset
from shardline.training.arguments import prepare, trainer_arguments
from shardline.training.inputs import Stage
from shardline.training.launch import own_rank
from shardline.training.merging import planned_family
from shardline.training.metrics import StepTotals
from shardline.training.schedule import learning_rate_factor
from shardline.training.speed import prepare_speed
from shardline.training.zero_config import deepspeed_config, zero_stage


class Run:
    """A stage on this hardware, in this process.

    Attributes:
        family: with the token merging that the plan was made for.
        size: forwards a step, and packs a forward.
        data: this rank's rows.
    """

    def __init__(self, stage: Stage) -> None:
        """Refuse what does not go together, choose the device, join the other ranks.

        Raises:
            ConfigError: options, plan, preset and machine do not fit each other.
        """
        options, self.stage = stage.options, stage
        self.rank, self.ranks = own_rank()
        check_devices(stage.hardware, self.ranks, options["precision"])
        self.summary = read_json(stage.plan)
        family = registry.load("families", options["family"], options.get("plugins", ()))
        self.family = planned_family(family, stage, self.summary)
        self.steps, self.packs = self.summary["steps"], self.summary["max_packs_per_step"]
        self.factor = learning_rate_factor(options["schedule"], self.steps)
        self.size = forwards(stage.hardware, self.packs, stage.plan.as_posix())
        config = self.deepspeed()
        self.zero = zero_stage(config) if config else 0
        self.rows = {
            "complete": config is not None and _all_take_part(options["tune"], self.zero),
            "steady": stage.hardware.compile != "none",
        }
        prepare_speed(stage.hardware)
        self.device = prepare(stage, self.ranks)
        self.data = self.read(*self.size)

    def deepspeed(self) -> dict[str, Any] | None:
        """DeepSpeed's config for the present size."""
        return deepspeed_config(self.stage.hardware, self.stage.options, *self.size)

    def arguments(self) -> TrainingArguments:
        """The Trainer's arguments for the present size; see `trainer_arguments`."""
        return trainer_arguments(self.stage, *self.size, self.steps, self.deepspeed())

    def read(self, accumulation: int, micro_batch: int) -> PlanDataset:
        """This rank's rows, in other sizes."""
        stage = self.stage
        return PlanDataset(
            stage.results,
            stage.plan,
            stage.parquet,
            self.family,
            rank=self.rank,
            ranks=self.ranks,
            micro_batch=micro_batch,
            accumulation=accumulation,
            features=stage.features,
            **self.rows,
        )

    def resize(self, accumulation: int, micro_batch: int) -> None:
        """Divide a step otherwise from now on."""
        self.size = accumulation, micro_batch
        self.data = self.read(*self.size)

    def batch(self) -> list[str]:
        """How a step comes about, as lines for the log."""
        summary, (accumulation, micro_batch) = self.summary, self.size
        ((unit, number),) = summary["global_batch"].items()
        zero = f", ZeRO stage {self.zero}" if self.stage.hardware.deepspeed else ""
        return [
            f"{self.steps} steps of {number:,} {unit} in up to {self.packs} pack(s) = "
            f"{self.ranks} rank(s) x {accumulation} forward(s) x {micro_batch} pack(s){zero}",
            f"a step has {summary['samples_per_step']['mean']:g} samples and "
            f"{summary['tokens'] / self.steps:,.0f} tokens on average, over all ranks",
        ]

    def totals(self) -> list[StepTotals]:
        """What each step has in all its packs."""
        plan = self.data.plan
        columns = (plan.tokens, plan.supervised, np.diff(plan.pack_starts))
        packs = [slice(*plan.step_starts[step : step + 2]) for step in range(plan.steps)]
        return [StepTotals(*(int(column[part].sum()) for column in columns)) for part in packs]

    def say(self, line: str) -> None:
        """Print a line once, not in every rank."""
        if self.rank == 0:
            say(line)

    def show(self, row: Mapping[str, Any]) -> None:
        """Print which packs a row has, where the preset has `debug`."""
        if not self.stage.hardware.debug:
            return
        packs, samples = (", ".join(map(str, row[name])) for name in ("packs", "samples"))
        patches = int(row["image_grid_thw"].prod(1).sum())
        say(
            f"debug: step {row['step'] + 1}, rank {self.rank}: pack(s) {packs or 'none'}; samples "
            f"{samples or 'none'}; {row['input_ids'].shape[-1]:,} tokens, {patches:,} patches"
        )


def say(line: str) -> None:
    """Print a line, if there still is somewhere to print it: a Ctrl-C ends a pipe's reader too."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _all_take_part(tune: Mapping[str, Any], zero: int) -> bool:
    """Whether DeepSpeed needs each forward to run the vision tower and the projector."""
    return zero == 3 or any(tune[module]["mode"] != "frozen" for module in ("projector", "vision"))
