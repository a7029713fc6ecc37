"""The gates before a training: on the first samples of its plan, with the base's first blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shardline.loader import PlanDataset
from shardline.training import gates
from shardline.training.inputs import Stage
from shardline.training.packs import Row, split
from shardline.training.speed import take_liger
from shardline.vision_features import DTYPES, VisionTower, take_features

SAMPLES = 4


def probe(
    stage: Stage,
    family: Any,
    data: PlanDataset,
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The gates on the first samples of the plan, with the first blocks of the bare base.

    One process runs it, on a model of its own: the whole may be too large for it.
    """
    options = stage.options
    dtype = DTYPES[options["precision"]]
    model = family.load_model(stage.model, dtype, device, blocks=gates.LAYERS)
    samples = _samples(data, family)
    passed = {}
    if stage.features:
        point = options["features"]
        size = {"ranks": data.ranks, "micro_batch": data.micro_batch}
        size["complete"] = data.kinds is not None
        seen = PlanDataset(stage.results, stage.plan, stage.parquet, family, **size)
        pictures = _samples(seen, family)
        tower = VisionTower(model, family, point, options["precision"])
        passed["features"] = gates.features_fit(tower, pictures, samples)
        say(f"features: largest relative difference {passed['features']['max_difference']:.1e}")
        take_features(model, family, point)
    passed["packing_parity"] = gates.packing_parity(model, family, samples)
    say(
        f"packing parity of {len(samples)} samples: largest relative difference "
        f"{passed['packing_parity']['max_difference']:.1e}"
    )
    if stage.hardware.kernels == "liger":
        passed["kernel_parity"] = gates.kernel_parity(model, family, samples, take_liger)
        say(
            "fused kernels: largest relative difference "
            f"{passed['kernel_parity']['max_difference']:.1e}"
        )
    return passed


def _samples(data: PlanDataset, family: Any) -> list[Row]:
    """The first samples of the plan, a row each; what pads a row comes behind them."""
    row = data[0]
    return split(row, family)[: min(SAMPLES, len(row["samples"]))]
