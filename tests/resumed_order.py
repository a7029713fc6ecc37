"""What a training reads from a step on, as hashes; alone, a process that goes on after another.

    python -m resumed_order '{"results": ..., "plan": ..., "family": "qwen2_vl", "starts": [...]}'

prints, of each start, the hashes of the packs of the remaining steps.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shardline import registry
from shardline.files import canonical_json
from shardline.hardware import Hardware
from shardline.loader import PlanDataset
from shardline.training.rows import rows_from

TEXT = ("input_ids", "labels", "mm_token_type_ids", "position_ids")


def order_from(
    results: Path,
    plan: Path,
    family_name: str,
    *,
    step: int,
    ranks: int = 1,
    workers: int = 0,
    micro_batch: int = 1,
) -> list[list[str]]:
    """Of each step from ``step`` on, a hash of every pack: ids, labels, positions, pixels.

    Each rank loads as a training does; their rows are put together in the order of the plan.
    """
    family = registry.load("families", family_name)
    hardware = Hardware(name="test", ranks=ranks, workers=workers, micro_batch=micro_batch)
    packs, size = plan.with_suffix(".parquet"), {"ranks": ranks, "micro_batch": micro_batch}
    parts = [PlanDataset(results, plan, packs, family, rank=rank, **size) for rank in range(ranks)]
    rows = zip(*(rows_from(part, step, hardware) for part in parts), strict=True)
    first, found = parts[0], []
    for number in range(step, first.plan.steps):
        samples: list[str] = []
        for row in itertools.chain(*itertools.islice(rows, first.accumulation)):
            assert row["step"] == number
            assert row["loss_denominator"] == first.plan.supervised_of(number)
            samples += hashes(row, family)
        sizes = [len(first.plan.samples(pack)) for pack in first.plan.packs(number)]
        assert sum(sizes) == len(samples)
        left = iter(samples)
        found.append([digest(itertools.islice(left, size)) for size in sizes])
    assert next(rows, None) is None
    return found


def hashes(row: dict[str, Any], family: ModuleType) -> Iterator[str]:
    """Of each sample of a row, a hash of all that the model is given; none of a row without loss.

    A sample's media are as many as fill its visual tokens.
    """
    kinds = ("image_grid_thw", "media_types", "intervals", "images")
    media = zip(*(row[kind] for kind in kinds), strict=True)
    bounds = itertools.pairwise(row["cu_seq_lens_q"].tolist())
    for name, (start, stop) in zip(row["samples"], bounds, strict=False):
        parts: list[Any] = [name]
        parts += [row[key][..., start:stop].contiguous().numpy() for key in TEXT]
        visual = int(row["mm_token_type_ids"][0, start:stop].count_nonzero())
        while visual:
            grid, kind, interval, image = next(media)
            visual -= family.visual_tokens(grid.tolist())
            facts = [grid.tolist(), kind, interval, list(image.shape)]
            parts += [canonical_json(facts), image.contiguous().numpy()]
        yield digest(parts)


def digest(parts: Any) -> str:
    """Hex sha256 over texts and arrays."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    where = Path(given["results"]), Path(given["plan"]), given["family"]
    print(json.dumps([order_from(*where, **start) for start in given["starts"]]))
