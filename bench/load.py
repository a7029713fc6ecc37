"""The loader against one that decodes, resizes and calls the processor at training time.

Both have two workers and are asked for rows as training asks. Ours reads packs of a plan from token
shards; theirs opens the pictures of image shards, calls the processor of transformers, and gives
one sample after the other. Seconds are the clock's, from the first row on.

The floor is to read and to decompress what is stored of each sample, on two cores.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from conversations import SCREENS, Made, conversations, write_filtered, write_model
from plan import KINDS
from tokenise import processor_of, run_planning, run_tokenising, theirs_of

from shardline.families import qwen2_vl as family
from shardline.loader import PlanDataset
from shardline.token_reader import TokenReader

WORKERS = 2
SAMPLES = 120
TURNS = 2  # ours and theirs take turns, for what else the machine does to strike both


class AtTrainingTime(torch.utils.data.Dataset):
    """Samples made when they are asked for, with the processor of transformers."""

    def __init__(self, made: Sequence[Made], model: Path) -> None:
        self.made, self.model = made, model
        self.processor: Any = None

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        if self.processor is None:
            torch.set_num_threads(1)
            self.processor = processor_of(self.model)
        return dict(theirs_of(self.processor, *self.made[item]))


def measure(samples: int = SAMPLES) -> dict[str, float]:
    """Samples a second of both, of 1,344 visual tokens and of mixed lengths, and their ratios."""
    torch.set_num_threads(1)
    return _compared("loader.", [SCREENS], samples) | _compared("loader.mixed_", KINDS, samples)


def _compared(prefix: str, kinds: Sequence[Any], samples: int) -> dict[str, float]:
    made = conversations(kinds, samples)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        model = results / "raw/models/tiny"
        write_model(model, made)
        run_tokenising(write_filtered(results, made), model, results)
        plan = run_planning(results)
        ours = PlanDataset(results, plan, plan.with_suffix(".parquet"), family)
        theirs = AtTrainingTime(made, model)
        seconds = {"ours": 0.0, "theirs": 0.0}
        for _ in range(TURNS):
            seconds["ours"] += _seconds(ours) / TURNS
            seconds["theirs"] += _seconds(theirs) / TURNS
        floor = _floor(ours) / WORKERS
    return {
        f"{prefix}samples_per_second": round(samples / seconds["ours"], 1),
        f"{prefix}processor_samples_per_second": round(samples / seconds["theirs"], 1),
        f"{prefix}floor_samples_per_second": round(samples / floor, 1),
        f"{prefix}ratio": round(seconds["theirs"] / seconds["ours"], 2),
    }


def _seconds(dataset: Iterable[Any]) -> float:
    """Of all rows; workers are started before."""
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=2, persistent_workers=True
    )
    for _ in loader:  # starts the workers, and reads all into the page cache
        pass
    begin = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begin


def _floor(dataset: PlanDataset) -> float:
    """Processor seconds to read each sample once."""
    reader = TokenReader(dataset.reader.results, dataset.plan.summary["shards"])
    begin = time.process_time()
    for pack in range(len(dataset.plan.tokens)):
        for place in dataset.plan.samples(pack):
            reader.read(place.shard, place.row)
    return time.process_time() - begin


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
