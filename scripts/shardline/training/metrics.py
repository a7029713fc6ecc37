"""What the journal says of a finished step, over all ranks.

==================== =========================================================================
loss                 cross entropy of the step's supervised tokens, their mean
loss/<dataset>       the same of one dataset's tokens; absent where the step has none of it
grad_norm            norm of the gradient before clipping
lr/<module>          learning rate that the step was taken with
tokens_per_second    tokens of samples, padding not counted
samples_per_second
samples              since the training's first step
useful_tokens        share of the computed tokens that belong to samples
data_wait            share of the step spent waiting for rows: the rank that waited longest
seconds              from asking for the step's first row to its end; no saving, no validation
gpu_memory           bytes: the largest peak of any rank since its start; on a GPU only
mfu                  model FLOPs a second, as a share of the ranks' peak; where both are known
gpu_utilisation      share of the last moments in which a GPU worked, mean of all; where known
==================== =========================================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from shardline.training.packs import Row, supervised

SAMPLE_EVERY = 1.0  # seconds between two looks at a GPU's load, which cost a system call


class StepTotals(NamedTuple):
    """What one global step has in all its packs, over all ranks."""

    tokens: int
    supervised: int
    samples: int


class Step(NamedTuple):
    """A finished step: whether any rank was asked to stop, and what the journal gets."""

    stop: bool
    metrics: dict[str, float]


class StepMeter:
    """Counts what this rank does in a step; `finish` puts the ranks' figures together.

    Args:
        totals: of each step.
        datasets: names of all datasets of the plan.
        device: of this rank.
        flops: model FLOPs of a row, forward and backward.
        peak: FLOPs a second of the device.
    """

    def __init__(
        self,
        totals: Sequence[StepTotals],
        datasets: Sequence[str],
        device: torch.device,
        flops: Callable[[Row], float] | None = None,
        peak: float | None = None,
    ) -> None:
        self.totals = totals
        self.datasets = sorted(set(datasets))
        self.device = device
        self.row: Row | None = None
        """The row that is being computed."""
        self.rows: list[tuple[list[int], torch.Tensor]] = []
        """Packs, and losses of each dataset, of the rows computed in this step."""
        self._samples = [0]
        for step in totals:
            self._samples.append(self._samples[-1] + step.samples)
        self._flops, self._peak = flops, peak
        self._load = _Load(device)
        self._restart()

    def _restart(self) -> None:
        self._begun = time.monotonic()
        self._wait = 0.0
        self._computed = 0
        self._work = 0.0
        self.rows = []
        self._counts = dict.fromkeys(self.datasets, 0)

    def take(self, rows: Iterator[Row], count: int) -> list[Row]:
        """The next rows, with which a step begins."""
        self._restart()
        taken = [next(rows) for _ in range(count)]
        self._wait = time.monotonic() - self._begun
        return taken

    def add(self, row: Row, losses: torch.Tensor) -> None:
        """Count a row; ``losses`` [n] of its `supervised` tokens, in order."""
        self._computed += row["input_ids"].shape[-1]
        if self._flops:
            self._work += self._flops(row)
        places = supervised(row)
        segments = torch.searchsorted(row["cu_seq_lens_q"][1:].long(), places, right=True)
        numbers = {name: number for number, name in enumerate(self.datasets)}
        # A segment of padding comes last and has no supervised token.
        owners = torch.tensor([numbers[name] for name in row["datasets"]], dtype=torch.long)
        owner = owners[segments] if len(places) else places
        mine = owner == torch.arange(len(self.datasets))[:, None]
        for name, count in zip(self.datasets, mine.sum(1).tolist(), strict=True):
            self._counts[name] += count
        mine = mine.to(losses.device, non_blocking=True)
        self.rows.append((row["packs"], torch.where(mine, losses.detach(), 0).sum(1)))

    def finish(
        self,
        step: int,
        loss: torch.Tensor,
        grad_norm: torch.Tensor | float,
        rates: Mapping[str, float],
        stop: bool,
        gather: Callable[[torch.Tensor], torch.Tensor],
    ) -> Step:
        """The figures of a step (1-based), read from the device at once.

        Args:
            loss: scalar: this rank's share of the step's loss, times the number of ranks.
            gather: ``[1, n]`` of each rank to ``[ranks, n]``.
        """
        nothing = torch.zeros(len(self.datasets), device=self.device)
        sums = sum((sums for _, sums in self.rows), nothing)
        norm = torch.as_tensor(grad_norm, device=self.device)
        memory, load = self._load()
        known = [float(stop), self._wait, self._computed, self._work, memory, load]
        known += self._counts.values()
        known = torch.tensor(known, dtype=torch.float64, device=self.device)
        own = torch.cat([loss.reshape(1).double(), norm.reshape(1).double(), sums.double(), known])
        ranks = gather(own[None]).tolist()
        columns = list(zip(*ranks, strict=True))
        size = len(self.datasets)
        losses, norms, *rest = columns
        summed, rest = rest[:size], rest[size:]
        stops, waits, computed, work, memories, loads, *counts = rest
        totals, seconds = self.totals[step - 1], time.monotonic() - self._begun
        metrics = {
            "loss": sum(losses) / len(ranks),
            "grad_norm": sum(norms) / len(ranks),
            "tokens_per_second": totals.tokens / seconds,
            "samples_per_second": totals.samples / seconds,
            "samples": self._samples[step],
            "useful_tokens": totals.tokens / sum(computed),
            "data_wait": max(waits) / seconds,
            "seconds": seconds,
            **{f"lr/{module}": rate for module, rate in rates.items()},
        }
        for name, total, count in zip(self.datasets, summed, counts, strict=True):
            if sum(count):
                metrics[f"loss/{name}"] = sum(total) / sum(count)
        if self._flops and self._peak:
            metrics["mfu"] = sum(work) / seconds / (self._peak * len(ranks))
        if self.device.type == "cuda":
            metrics["gpu_memory"] = max(memories)
            if loads := [load for load in loads if not math.isnan(load)]:
                metrics["gpu_utilisation"] = sum(loads) / len(loads)
        return Step(any(stops), metrics)

    def diverged(self, metrics: Mapping[str, float]) -> str:
        """Where a step's loss is not finite, as far as this rank knows."""
        packs = [
            str(pack)
            for packs, losses in self.rows
            if not torch.isfinite(losses).all()
            for pack in packs
        ]
        names = [
            name for name in self.datasets if not math.isfinite(metrics.get(f"loss/{name}", 0.0))
        ]
        if packs:
            return f" in pack(s) {', '.join(packs)} of the plan ({', '.join(names)})"
        return f" in the datasets {', '.join(names)}" if names else ""


class _Load:
    """Peak memory and utilisation of this rank's GPU; NaN for what is not known."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._looked = -math.inf
        self._blind = device.type != "cuda"

    def __call__(self) -> tuple[float, float]:
        if self._device.type != "cuda":
            return math.nan, math.nan
        memory = float(torch.cuda.max_memory_allocated(self._device))
        now = time.monotonic()
        if self._blind or now - self._looked < SAMPLE_EVERY:
            return memory, math.nan
        self._looked = now
        try:
            return memory, torch.cuda.utilization(self._device) / 100
        except Exception:  # NVML is not there, or refuses: a part of a GPU, a container
            self._blind = True
            return memory, math.nan
