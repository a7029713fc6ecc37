"""The loss on samples that are not trained on, and what follows from it: the best step, an end.

Nothing here draws a random number: a training is the same to the bit with and without validation.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from shardline.errors import GateError
from shardline.files import read_json
from shardline.loader import PlanDataset
from shardline.training.inputs import Stage
from shardline.training.launch import own_rank
from shardline.training.packs import Row, supervised, token_losses
from shardline.training.rows import rows_from

LOSS = "validation/loss"

Losses = dict[int, float]
"""Validation losses by their step, in order."""


class Best(NamedTuple):
    """The step with the lowest validation loss, the first of equal ones."""

    step: int
    loss: float


def best(losses: Losses) -> Best | None:
    """The best step so far; None before the first validation."""
    return Best(*min(losses.items(), key=lambda item: (item[1], item[0]))) if losses else None


def reason_to_stop(losses: Losses, early_stop: Mapping[str, Any] | None) -> str:
    """Why a training ends after its last validation, or an empty text.

    Args:
        early_stop: ``patience``: validations in a row whose loss is not lower than the lowest
            before them by more than ``min_delta``.
    """
    if not early_stop:
        return ""
    lowest, since, waited = math.inf, 0, 0
    for step, loss in losses.items():
        if loss < lowest - early_stop["min_delta"]:
            lowest, since, waited = loss, step, 0
        else:
            waited += 1
    if waited < early_stop["patience"]:
        return ""
    return (
        f"no validation loss lower than the {lowest:.4f} of step {since} by more than "
        f"{early_stop['min_delta']:g} in {waited} validation(s)"
    )


class Validation:
    """Validates a stage's model on a plan, with all ranks, and remembers the losses.

    Attributes:
        losses: of all steps that were validated; a checkpoint has them, a resumed run sets them.
    """

    def __init__(self, stage: Stage, family: Any, **rows: bool) -> None:
        """Read the plan that the stage validates on.

        Args:
            rows: ``complete`` and ``steady`` of the training's own rows (`PlanDataset`).
        """
        self.options = stage.options["validate"]
        self.losses: Losses = {}
        self._family, self._hardware = family, stage.hardware
        rank, ranks = own_rank()
        self._data = whole_plan(stage, family, rank, ranks, **rows)
        self._ranks = ranks

    def due(self, step: int) -> bool:
        """Whether a step's model is to be validated and was not."""
        return step > 0 and step % self.options["every"] == 0 and step not in self.losses

    def best(self) -> Best | None:
        """The best step so far."""
        return best(self.losses)

    def reason_to_stop(self) -> str:
        """Why the training ends here, or an empty text."""
        return reason_to_stop(self.losses, self.options.get("early_stop"))

    def run(
        self, model: torch.nn.Module, step: int, stop: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Validate a model; the same figures in every rank, which must all call this.

        Args:
            stop: whether to give up, asked before each row in every rank.

        Returns:
            ``validation/loss``, ``validation/loss/<dataset>``, ``validation/seconds``; None if it
            was given up.

        Raises:
            GateError: the loss is not finite.
        """
        begun = time.monotonic()
        sums: dict[str, np.ndarray] = {}
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for row in rows_from(self._data, 0, self._hardware):
                    if stop():
                        return None
                    losses = token_losses(model, self._family, row).double().cpu().numpy()
                    for dataset, part in _by_dataset(row):
                        found = sums.setdefault(dataset, np.zeros(2))
                        found += (losses[part].sum(), losses[part].size)
        finally:
            model.train(training)
        totals = self._all_ranks(sums)
        loss = sum(total[0] for total in totals.values()) / sum(
            total[1] for total in totals.values()
        )
        if not math.isfinite(loss):
            raise GateError(f"step {step}: validation loss {loss}: training has diverged")
        self.losses[step] = float(loss)
        apart = {f"{LOSS}/{name}": float(total[0] / total[1]) for name, total in totals.items()}
        return {LOSS: float(loss), **apart, "validation/seconds": time.monotonic() - begun}

    def _all_ranks(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The sums of all ranks, added in the order of the ranks, by dataset."""
        parts = [sums]
        if self._ranks > 1:
            parts = [{} for _ in range(self._ranks)]
            torch.distributed.all_gather_object(parts, sums)
        names = sorted({name for part in parts for name in part})
        return {name: sum(part[name] for part in parts if name in part) for name in names}


def whole_plan(stage: Stage, family: Any, rank: int, ranks: int, **rows: bool) -> PlanDataset:
    """The validation plan as if all its packs were of one step, dealt out over the ranks."""
    size = {"rank": rank, "ranks": ranks, "micro_batch": stage.hardware.micro_batch, **rows}
    plan = stage.validation
    parquet = plan.with_suffix(".parquet")
    data = PlanDataset(stage.results, plan, parquet, family, features=stage.features, **size)
    packs = len(data.plan.tokens)
    data.plan = dataclasses.replace(data.plan, step_starts=np.array([0, packs]))
    data.accumulation = -(-packs // (ranks * stage.hardware.micro_batch))
    return data


def _by_dataset(row: Row) -> Iterator[tuple[str, np.ndarray]]:
    """Each dataset of a row's samples, and which of the row's supervised tokens are of it."""
    sample = np.searchsorted(row["cu_seq_lens_q"].numpy(), supervised(row).numpy(), "right") - 1
    # Padding and stand-ins come last and have no supervised token.
    datasets = np.array(row["datasets"])
    for dataset in sorted(set(datasets.tolist())):
        part = datasets[sample] == dataset
        if part.any():
            yield dataset, part


def facts(plan: Path) -> dict[str, Any]:
    """What a run's record and result say of the plan it validates on."""
    summary = read_json(plan)
    return {
        "datasets": sorted({Path(shard["path"]).parts[1] for shard in summary["shards"]}),
        "held_out": bool(summary["split"]),
        **{name: summary[name] for name in ("samples", "supervised_tokens", "parquet_sha256")},
    }
