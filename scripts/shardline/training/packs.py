"""The forward of a row of packed samples, and the loss of each supervised token.

A row is what `shardline.loader.PlanDataset` gives: its samples one after the other, with their
boundaries in ``cu_seq_lens_q``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from shardline.attention import no_mask
from shardline.labels import IGNORED
from shardline.vision_features import vision_keywords

TEXT = ("input_ids", "labels", "mm_token_type_ids", "position_ids")
"""What a row has one of for each token, in the last dimension."""
MEDIA = ("images", "features", "media_types", "intervals")
"""What a row may have a list of, one for each medium."""

Row = dict[str, Any]


def supervised(row: Row) -> torch.Tensor:
    """Places int64 [n] in the row whose next token is supervised.

    A sample's first label is never supervised, so a place and its next token are of one sample.
    """
    return (row["labels"][0, 1:] != IGNORED).nonzero().flatten()


def token_losses(model: torch.nn.Module, family: Any, row: Row) -> torch.Tensor:
    """Cross entropy fp32 [n] of a row's supervised tokens, in order.

    Logits are computed at the places of `supervised` alone.
    """
    device = next(model.parameters()).device
    places = supervised(row)
    bounds = row["cu_seq_lens_q"].to(device, non_blocking=True)
    logits = model(
        input_ids=row["input_ids"].to(device, non_blocking=True),
        **_positions(row, device),
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=row["max_length_q"],
        max_length_k=row["max_length_k"],
        use_cache=False,
        logits_to_keep=places.to(device, non_blocking=True),
        **_vision(family, row, device),
    ).logits
    targets = row["labels"][0, places + 1].to(device, non_blocking=True)
    return cross_entropy(logits[0].float(), targets, reduction="none")


def _positions(row: Row, device: torch.device) -> dict[str, torch.Tensor]:
    """The forward keywords of the family's positions: [3, 1, T], or [1, T] of one row.

    Not the loader's first row: transformers would build a dense mask from it.
    """
    places = row["position_ids"][1:].to(device, non_blocking=True)
    if len(places) > 1:
        return {"position_ids": places}
    return {"position_ids": places[0], "attention_mask": no_mask(device)}


def stock_losses(model: torch.nn.Module, family: Any, row: Row) -> torch.Tensor:
    """`token_losses` of a row of one sample, without boundaries and with the model's own positions.

    What stock transformers computes for the sample: the reference of the packing gate.
    """
    device = next(model.parameters()).device
    places = supervised(row)
    inputs = {"input_ids": row["input_ids"].to(device)}
    if row["media_types"]:
        inputs |= _vision(family, row, device, segments=False)
        token_types = row["mm_token_type_ids"].to(device)
        inputs |= family.position_inputs(token_types, row["media_types"], row["intervals"])
    logits = model(**inputs, use_cache=False).logits[0, places.to(device)]
    targets = row["labels"][0, places + 1].to(device)
    return cross_entropy(logits.float(), targets, reduction="none")


def _vision(family: Any, row: Row, device: torch.device, segments: bool = True) -> dict[str, Any]:
    """The forward keywords of a row's media; none for a row of text.

    Args:
        segments: tell the vision tower its segments at once, where the family has them.
    """
    if not row["media_types"]:
        return {}
    grids, types = row["image_grid_thw"].tolist(), row["media_types"]
    if "features" in row:
        return family.stored_inputs(row["features"], grids, device, types)
    return vision_keywords(family, row["images"], grids, device, types, segments)


def split(row: Row, family: Any) -> list[Row]:
    """The samples of a row, as a row each."""
    samples = []
    grids = row["image_grid_thw"].tolist()
    taken = 0
    for start, stop in itertools.pairwise(row["cu_seq_lens_q"].tolist()):
        tokens = {name: row[name][..., start:stop] for name in TEXT}
        visual = int((tokens["mm_token_type_ids"] != 0).sum())
        first = taken
        while visual > 0:
            visual -= family.visual_tokens(grids[taken])
            taken += 1
        names = ("image_grid_thw", *MEDIA)
        media = {name: row[name][first:taken] for name in names if name in row}
        samples.append(_bounded(tokens | media, [stop - start]))
    return samples


def join(rows: Sequence[Row]) -> Row:
    """Several rows as one, whose samples stay apart."""
    tokens = {name: torch.cat([row[name] for row in rows], dim=-1) for name in TEXT}
    media = {name: [one for row in rows for one in row[name]] for name in MEDIA if name in rows[0]}
    media["image_grid_thw"] = torch.cat([row["image_grid_thw"] for row in rows])
    lengths = [length for row in rows for length in row["cu_seq_lens_q"].diff().tolist()]
    return _bounded(tokens | media, lengths)


def _bounded(row: Row, lengths: Sequence[int]) -> Row:
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    return row | {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
