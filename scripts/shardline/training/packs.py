"""The forward of a pack: what the model reads, and the loss of each supervised token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from shardline.attention import vision_segments

IGNORED = -100


@dataclass(kw_only=True)
class Pack:
    """Whole samples, one after the other; ``lengths`` are their tokens. No samples: no loss."""

    input_ids: np.ndarray
    """int [T], placeholders expanded."""
    labels: np.ndarray
    """int [T], aligned with ``input_ids``; -100 where there is no loss."""
    positions: np.ndarray
    """int64 [3, T], each sample's own."""
    lengths: list[int]
    images: list[torch.Tensor] = field(default_factory=list)
    """uint8 [height, width, 3], each of the size of its grid."""
    grids: list[Sequence[int]] = field(default_factory=list)
    """(time, height, width) of each image in patches."""


def joined(packs: Sequence[Pack]) -> Pack:
    """Several packs as one: their samples stay as apart as they are within a pack."""
    if len(packs) == 1:
        return packs[0]
    return Pack(
        input_ids=np.concatenate([pack.input_ids for pack in packs]),
        labels=np.concatenate([pack.labels for pack in packs]),
        positions=np.concatenate([pack.positions for pack in packs], axis=1),
        lengths=[length for pack in packs for length in pack.lengths],
        images=[image for pack in packs for image in pack.images],
        grids=[grid for pack in packs for grid in pack.grids],
    )


def supervised(pack: Pack) -> np.ndarray:
    """Places int64 [n] in the pack whose next token is supervised (and of the same sample)."""
    labels = pack.labels.copy()
    labels[[0, *itertools.accumulate(pack.lengths)][:-1]] = IGNORED
    return np.flatnonzero(labels[1:] != IGNORED)


def token_losses(model: torch.nn.Module, family: Any, pack: Pack) -> torch.Tensor:
    """Cross entropy fp32 [n] of the pack's supervised tokens, in order.

    Logits are computed at the places of `supervised` alone.
    """
    device = next(model.parameters()).device
    bounds = np.cumsum([0, *pack.lengths], dtype=np.int32)
    places = supervised(pack)

    def on_device(values: np.ndarray, kind: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.from_numpy(values).to(device=device, dtype=kind, non_blocking=True)

    segments, longest = on_device(bounds, torch.int32), max(pack.lengths)
    logits = model(
        input_ids=on_device(pack.input_ids)[None],
        position_ids=on_device(pack.positions)[:, None],
        cu_seq_lens_q=segments,
        cu_seq_lens_k=segments,
        max_length_q=longest,
        max_length_k=longest,
        use_cache=False,
        logits_to_keep=on_device(places),
        **_vision(family, pack, device),
    ).logits
    return cross_entropy(logits[0].float(), on_device(pack.labels[places + 1]), reduction="none")


def _vision(family: Any, pack: Pack, device: torch.device) -> dict[str, Any]:
    """The forward keywords of the pack's images; none for a pack of text."""
    if not pack.images:
        return {}
    inputs = family.vision_inputs(pack.images, pack.grids, device, torch.float32)
    if family.ATTENDS_WITHIN_FRAMES:
        inputs |= vision_segments(pack.grids, device)
    return inputs
