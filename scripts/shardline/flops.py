"""Model FLOPs of a training step: the arithmetic that the step cannot do without.

A row times a matrix of ``n`` weights takes ``2 n`` operations, and so do its gradient to the row
and that to the weights. Counted is what the tuning needs: every forward, a gradient to activations
only where something before is trained, a gradient to weights only where they are trained. A pair of
query and key takes ``4 * width`` forward and twice that backward; of causal pairs half is counted.

Not counted: what is computed anew to save memory, padding, the output head at places without loss,
and what is no product (norms, activations, embeddings, the optimiser).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second of NVIDIA's SXM devices, by a part of their names."""
SAME_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})
"""Layers that read the same activations: none of them is before another."""
PRODUCTS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclass(frozen=True)
class Work:
    """What goes through a model; that of several forwards adds up.

    Attributes:
        tokens: of samples, expanded, without padding.
        pairs: sum of the samples' squared lengths.
        supervised: tokens whose logits are computed.
        patches: that the vision tower reads; 0 where stored features are in its place.
        frame_pairs: sum of the squared numbers of patches of the frames.
        window_pairs: the same of the windows that frames are cut into.
        visual_tokens: that the projector makes; 0 where they are stored.
    """

    tokens: float = 0
    pairs: float = 0
    supervised: float = 0
    patches: float = 0
    frame_pairs: float = 0
    window_pairs: float = 0
    visual_tokens: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class Costs(Work):
    """Operations of a training step, forward and backward, for one of what `Work` counts."""

    def of(self, work: Work) -> float:
        """Operations that the work takes."""
        return sum(math.prod(pair) for pair in zip(astuple(self), astuple(work), strict=True))


def step_costs(model: torch.nn.Module, family: Any) -> Costs:
    """The costs of a model as it is tuned (``requires_grad``), adapters included.

    Args:
        family: its ``module_of`` tells what a layer reads: one of ``vision`` reads patches, one of
            the ``projector`` visual tokens, one of ``llm`` tokens.
    """
    costs = dict.fromkeys((field.name for field in fields(Costs)), 0.0)
    upstream = False
    for (_, group), layers in itertools.groupby(model.named_modules(), lambda pair: _group(*pair)):
        before, attended, trained = upstream, 0, False
        for name, layer in layers:
            learns = any(p.requires_grad for p in layer.parameters(recurse=False))
            trained = trained or learns
            if isinstance(layer, PRODUCTS):
                adapter = ".lora_B." in name and learns
                passes = 1 + (before or adapter) + layer.weight.requires_grad
                costs[_reads(name, family)] += 2 * _weights(layer) * passes
                attended += _attended(name, layer)
        upstream = upstream or trained
        kind, share = _pairs(group, model, family)
        costs[kind] += share * attended * (3 if upstream else 1)
    return Costs(**costs)


def row_work(row: Mapping[str, Any], family: Any) -> Work:
    """The work of one row of `shardline.loader.PlanDataset`; none for one that fills a step up."""
    lengths = row["lengths"]
    if not lengths:
        return Work()
    grids = [] if "features" in row else row["image_grid_thw"].tolist()
    supervised = int((row["labels"][0, 1:] >= 0).sum())
    return media_work(grids, family.MERGE) + text_work(lengths, supervised)


def text_work(lengths: Sequence[int], supervised: int) -> Work:
    """The language model's work on samples of these lengths."""
    pairs = sum(length**2 for length in lengths)
    return Work(tokens=sum(lengths), pairs=pairs, supervised=supervised)


def media_work(grids: Sequence[Sequence[int]], merge: int, window: int = 8) -> Work:
    """The work of vision tower and projector.

    Args:
        grids: (time, height, width) of each medium in patches.
        merge: patches a side of a visual token.
        window: patches a side of a window, for towers that have any.
    """
    frames = [(height, width) for time, height, width in grids for _ in range(time)]
    sizes = [height * width for height, width in frames]
    return Work(
        patches=sum(sizes),
        frame_pairs=sum(size**2 for size in sizes),
        window_pairs=sum(_squares(h, window) * _squares(w, window) for h, w in frames),
        visual_tokens=sum(sizes) // merge**2,
    )


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 operations a second of a device by its data sheet; None if not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def _squares(side: int, window: int) -> int:
    """Sum of the squared widths of the windows along a side."""
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2


def _base(name: str) -> str:
    """The name of the layer that a part of an adapted layer belongs to."""
    return name.partition(".base_layer")[0].partition(".lora_")[0]


def _group(name: str, layer: torch.nn.Module) -> tuple[Any, str]:
    """Equal for layers next to each other that read the same activations."""
    owner, _, last = _base(name).rpartition(".")
    number = next((n for n, names in enumerate(SAME_INPUT) if last in names), None)
    return ((owner, last) if number is None else (owner, number)), owner


def _weights(layer: Any) -> int:
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features * layer.out_features
    return layer.in_channels * layer.out_channels * math.prod(layer.kernel_size)


def _reads(name: str, family: Any) -> str:
    if _base(name).endswith("lm_head"):
        return "supervised"
    return {"vision": "patches", "projector": "visual_tokens", "llm": "tokens"}[
        family.module_of(name)
    ]


def _attended(name: str, layer: Any) -> int:
    """Forward operations a pair of the attention that a layer makes the queries of, or 0."""
    if ".lora_" in name or not isinstance(layer, torch.nn.Linear):
        return 0
    last = _base(name).rpartition(".")[2]
    return {"q_proj": 4 * layer.out_features, "qkv": 4 * layer.out_features // 3}.get(last, 0)


def _pairs(owner: str, model: torch.nn.Module, family: Any) -> tuple[str, float]:
    """Of what the attention ``owner`` sees pairs, and which share of them."""
    if family.module_of(f"{owner}.weight") != "vision":
        return "pairs", 0.5
    whole = getattr(model.config.vision_config, "fullatt_block_indexes", None)
    block = next((int(part) for part in owner.split(".") if part.isdigit()), 0)
    return ("frame_pairs" if whole is None or block in whole else "window_pairs"), 1.0
