"""A smaller micro-batch where the preset's does not fit the device: the same global batch.

The largest forwards of the whole plan are computed before the first step, beside as much memory as
the optimiser will take, and the micro-batch is halved until they fit.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardline.files import read_json
from shardline.hardware import forwards
from shardline.loader import PlanDataset
from shardline.training import random_state
from shardline.training.failures import Work, out_of_memory
from shardline.training.inputs import Stage
from shardline.training.packs import Row, token_losses
from shardline.training.zero_config import preset_zero_stage

RECORD = "fitted"
MOMENTS = 8  # bytes a trained parameter: AdamW's two, fp32


def fit(
    stage: Stage,
    model: torch.nn.Module,
    family: Any,
    read: Callable[[int, int], PlanDataset],
    packs: int,
    say: Callable[[str], None],
    work: Work,
) -> tuple[int, int]:
    """Forwards a step and packs a forward that fit; as `hardware.forwards` where those do.

    A training that goes on begins with what it was fitted to, since another micro-batch rounds
    otherwise. All ranks come to the same.

    Args:
        read: the rows for a number of forwards a step and packs a forward.
        packs: of the fullest step.
        work: learns which row is being computed.

    Raises:
        torch.OutOfMemoryError, RuntimeError, MemoryError: a single pack does not fit.
    """
    hardware = replace(stage.hardware, micro_batch=_recorded(stage))
    while True:
        accumulation, size = forwards(hardware, packs, stage.plan.as_posix())
        rows = heaviest(read(accumulation, size))
        if _agreed(_fits(stage, model, family, rows, work, last=size == 1)):
            work.row = None
            return accumulation, size
        smaller = -(-size // 2)
        say(f"auto_fit: {size} pack(s) a forward do not fit; {smaller} are tried")
        hardware = replace(hardware, micro_batch=smaller)


def record(stage: Stage, accumulation: int, size: int, packs: int) -> dict[str, Any]:
    """What the training's record says, if it was fitted to less than its preset asks for."""
    asked = forwards(stage.hardware, packs, stage.plan.as_posix())
    if (accumulation, size) == asked:
        return {}
    return {
        RECORD: {
            "asked": stage.hardware.micro_batch,
            "ranks": stage.hardware.ranks,
            "micro_batch": size,
            "accumulation": accumulation,
        }
    }


def _recorded(stage: Stage) -> int:
    file = Path(stage.work / "run.json")
    before = read_json(file).get(RECORD) if file.is_file() else None
    asked = {"asked": stage.hardware.micro_batch, "ranks": stage.hardware.ranks}
    if before and asked.items() <= before.items():
        return before["micro_batch"]
    return stage.hardware.micro_batch


def heaviest(data: PlanDataset) -> list[Row]:
    """The rows with the most tokens, patches and supervised tokens, of all ranks' rows."""
    plan, size = data.plan, data.micro_batch
    counts = np.diff(plan.step_starts)
    starts = np.concatenate(
        [
            np.arange(begin, begin + number, size)
            for begin, number in zip(plan.step_starts, counts, strict=False)
        ]
    )
    tokens = np.add.reduceat(plan.tokens.astype(np.int64), starts)
    if data.padded:
        packs = np.diff([*starts, len(plan.tokens)])
        tokens = np.maximum.reduceat(plan.tokens, starts) * packs
    sums = (tokens, *(np.add.reduceat(c, starts) for c in (plan.patches, plan.supervised)))
    rows = []
    for place in dict.fromkeys(int(starts[column.argmax()]) for column in sums):
        step = int(np.searchsorted(plan.step_starts, place, side="right")) - 1
        micro, rank = divmod((place - int(plan.step_starts[step])) // size, data.ranks)
        whose = copy.copy(data)
        whose.rank = rank
        rows.append(whose.row(step, micro))
    return rows


def _fits(
    stage: Stage, model: torch.nn.Module, family: Any, rows: Sequence[Row], work: Work, last: bool
) -> bool:
    """Whether all rows can be computed, one of them beside the gradients of the others."""
    device = next(model.parameters()).device
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shared = stage.hardware.ranks if preset_zero_stage(stage.hardware) else 1
    before = random_state.take()
    bf16 = stage.options["precision"] == "bf16"
    fits = True
    model.train()
    try:
        moments = torch.empty(MOMENTS * trained // shared, dtype=torch.uint8, device=device)
        for row in [*rows, rows[0]]:
            work.row = row
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = token_losses(model, family, row).sum()
            loss.backward()
        del moments, loss
    except Exception as error:
        if last or not out_of_memory(error):
            raise
        fits = False
    model.zero_grad(set_to_none=True)
    random_state.put_back(before)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _agreed(fits: bool) -> bool:
    """Whether it fits on all ranks."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return fits
    answers = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(answers, fits)
    return all(answers)
