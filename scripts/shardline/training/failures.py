"""Running out of memory: how it is recognised, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from shardline.errors import DataError, UserError
from shardline.memory import Forward, device_bytes, read_architecture, read_shapes
from shardline.plan_file import Plan
from shardline.training.inputs import Stage
from shardline.training.packs import Row
from shardline.training.zero_config import preset_zero_stage

WORDS = ("out of memory", "can't allocate memory")
NAMED = 5  # samples that a message names
SAFE = 0.95  # share of a device that an estimate may take


class OutOfMemory(UserError):
    """A device's memory is too small for what was asked of it."""


@dataclass
class Work:
    """What was being computed: the row, if any, and of which step (from 0)."""

    place: str
    row: Row | None = None


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, a CUDA library or Python found no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)


@contextlib.contextmanager
def explained(
    stage: Stage, family: Any, plan: Plan, device: torch.device, work: Callable[[], Work]
) -> Iterator[None]:
    """Raise `OutOfMemory`, with what would help, where memory runs out.

    Args:
        work: asked when it has: what was being computed.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        text = describe(stage, family, plan, device, work())
        raise OutOfMemory(text) from None


def describe(stage: Stage, family: Any, plan: Plan, device: torch.device, work: Work) -> str:
    """The message: packs, samples, sizes, the peak, and the preset's changes that would fit."""
    peak, capacity = usage(device)
    text = [f"out of memory {work.place}"]
    forward = alone = Forward(0, 0, 0)
    packs: list[int] = []
    if row := work.row:
        packs = row["packs"]
        patches = int(row["image_grid_thw"].prod(1).sum())
        tokens = row["input_ids"].shape[-1]
        names = row["samples"]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        text.append(
            f"in pack(s) {', '.join(map(str, packs))} of {stage.parquet} (rows from 0): samples "
            f"{', '.join(names[:NAMED])}{more}; {tokens:,} tokens, {patches:,} patches"
        )
        forward = Forward(tokens, patches, int(plan.supervised[packs].sum()))
        alone = Forward(
            -(-tokens // len(packs)) if plan.summary["fixed_shape"] else _most(plan.tokens, packs),
            _most(plan.patches, packs),
            _most(plan.supervised, packs),
        )
    text.append(f"peak {_size(peak)} of {_size(capacity)}")
    return "; ".join(text) + ". " + advice(stage, family, forward, alone, len(packs), capacity)


def _size(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.1f} MB"


def _most(column: Any, packs: list[int]) -> int:
    return int(column[packs].max()) if packs else 0


def usage(device: torch.device) -> tuple[int, int]:
    """The peak so far and what there is, in bytes, of a GPU or of this process."""
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_allocated(device), whole
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        whole = min(whole, limit)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, whole


def advice(
    stage: Stage, family: Any, forward: Forward, alone: Forward, packs: int, capacity: int
) -> str:
    """Which changes of the preset would fit, by the estimate of `shardline.memory`.

    An estimate that the present forward should have fitted is scaled up to the device's size, and
    the others with it.
    """
    hardware = stage.hardware
    try:
        shapes, sizes = read_shapes(stage.model), read_architecture(stage.model)
    except DataError:
        return _unmeasured(packs, hardware.gradient_checkpointing)
    thrifty = replace(hardware, gradient_checkpointing=True)

    def need(part: Forward, preset: Any = hardware) -> dict[str, int]:
        return device_bytes(shapes, sizes, family, stage.options, part, preset)

    found = []
    if packs > 1:
        found.append(("micro_batch: 1", need(alone)["total"]))
    if not hardware.gradient_checkpointing:
        found.append(("gradient_checkpointing: true", need(forward, thrifty)["total"]))
        if packs > 1:
            both = "gradient_checkpointing: true with micro_batch: 1"
            found.append((both, need(alone, thrifty)["total"]))
    least = need(alone, thrifty)
    state = least["weights"] + least["gradients"] + least["optimiser"]
    also = " with gradient_checkpointing: true" + (" and micro_batch: 1" if packs > 1 else "")
    if hardware.ranks > 1 and preset_zero_stage(hardware) < 3:
        split = least["total"] - state + state // hardware.ranks
        found.append((f"a deepspeed JSON of ZeRO stage 3{also}", split))
    kept = least["total"] - least["optimiser"]
    found.append((f"a deepspeed JSON that offloads the optimiser{also}", kept))
    now = need(forward)["total"]
    scale = max(1.0, capacity / now)
    fitting = [
        f"{change} ({_size(total * scale)})"
        for change, total in found
        if total * scale <= SAFE * capacity
    ]
    said = f"By estimate it needs {_size(now * scale)}. "
    if fitting:
        return said + (
            f"Changes of the hardware preset {hardware.name!r} that would fit, and train the "
            f"same: {'; '.join(fitting)}"
        )
    return said + (
        f"No change of the hardware preset {hardware.name!r} alone would fit: take a larger "
        "device, or more ranks with ZeRO stage 3; or lower the recipe's max_length, which trains "
        "on other samples"
    )


def _unmeasured(packs: int, checkpointing: bool) -> str:
    changes = ["micro_batch: 1"] if packs > 1 else []
    changes += [] if checkpointing else ["gradient_checkpointing: true"]
    changes += ["a deepspeed JSON with ZeRO or offload"]
    return f"What the hardware preset can change: {', '.join(changes)}"
