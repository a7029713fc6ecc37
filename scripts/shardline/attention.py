"""Packed attention: the samples of a pack, and the images of a vision tower, never see each other.

Importing this module registers the attention ``shardline_varlen`` with transformers. A forward that
gives boundaries gets variable-length attention, exact for every segment:

* language model: ``cu_seq_lens_q`` (int32 [n + 1]) and ``max_length_q``, causal, with position ids
  of three rows [3, 1, T] and no attention mask, or of one row [1, T] and `no_mask`;
* vision tower: the keywords of `vision_segments`, not causal.

On CUDA in half precision this is a kernel of `shardline.varlen`. Elsewhere segments are laid side
by side as rows of a batch for scaled dot product attention (SDPA). Without boundaries it is plain
SDPA, which honours a padding mask and a KV cache: that is what ``generate`` uses.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from shardline import varlen

NAME = "shardline_varlen"
FILL = 0.75  # causal rows of one batch are at least this full: little waste, few calls


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls for ``shardline_varlen``.

    Args:
        query: [1, heads, T, head size]; ``key`` and ``value`` may have fewer heads (grouped).
        attention_mask: only without boundaries; [batch, 1, queries, keys] as `sdpa_mask` makes it;
            one without elements is none.

    Returns:
        [batch, T, heads, head size] and no weights.

    Raises:
        ValueError: boundaries together with a mask, or with more than one row.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None and not attention_mask.numel():
        attention_mask = None
    # Some transformers versions hand the language model's boundaries on to the vision tower, so
    # that each of the two has names of its own.
    names = ("cu_seq_lens_q", "max_length_q") if causal else ("segments", "longest_segment")
    bounds, longest = (kwargs.get(name) for name in names)
    if bounds is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            is_causal=causal,
        )
    if attention_mask is not None or len(query) != 1:
        raise ValueError("packed attention takes one row and no attention mask")
    tensors = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        # Rotary embeddings leave queries and keys in fp32; the kernel is no autocast operation.
        tensors = [tensor.to(torch.get_autocast_dtype("cuda")) for tensor in tensors]
    query, key, value = tensors
    if varlen.fits(query) and not dropout:
        output = varlen.attend(query, key, value, bounds, longest, scaling, causal)
    else:
        if groups := query.shape[1] // key.shape[1] - 1:
            key, value = (t.repeat_interleave(groups + 1, dim=1) for t in (key, value))
        output = _Rows.attend(query, key, value, bounds, scaling, dropout, causal)
    return output.unsqueeze(0), None


def no_mask(device: torch.device | str) -> torch.Tensor:
    """An attention mask without elements, for position ids of one row that begin anew in a pack.

    Given none, transformers would build a dense mask from them.
    """
    return torch.empty(1, 1, 0, 0, device=device)


def vision_segments(
    grids: Sequence[Sequence[int]], device: torch.device | str, kind: str = "image"
) -> dict[str, Any]:
    """Forward keywords that make a Qwen2-VL vision tower attend within each frame in one call.

    Without them the tower calls its attention image by image.

    Args:
        grids: (time, height, width) of each medium in patches.
        kind: of them all: ``image`` or ``video``.
    """
    sizes = [height * width for time, height, width in grids for _ in range(time)]
    bounds = [0, *itertools.accumulate(sizes)]
    return {
        # One chunk for the tower's own loop over images, which reads it on the host; our attention
        # knows the real segments.
        f"{kind}_cu_seqlens": torch.tensor([0, bounds[-1]], dtype=torch.int32),
        f"{kind}_segments": sent(torch.tensor(bounds, dtype=torch.int32), device),
        f"{kind}_longest_segment": max(sizes),
    }


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A small tensor of the host on a device, without waiting for what the device still does."""
    return tensor.to(device, non_blocking=True)


class _Batch(NamedTuple):
    """Segments laid out as ``rows`` x ``width``: the batch's place among all the rows."""

    rows: int
    width: int


class _Layout(NamedTuple):
    batches: tuple[_Batch, ...]
    take: torch.Tensor | None
    """[sum of rows x width] token of each cell (padding repeats a token); None: as they are."""
    back: torch.Tensor | None
    """[T] cell of each token."""


@functools.lru_cache(maxsize=16)
def _layout(bounds: tuple[int, ...], causal: bool, device: torch.device) -> _Layout:
    segments = [(stop - start, start) for start, stop in itertools.pairwise(bounds) if stop > start]
    if len({length for length, _ in segments}) == 1:
        return _Layout((_Batch(len(segments), segments[0][0]),), None, None)
    segments.sort(reverse=True)
    batches: list[_Batch] = []
    take: list[torch.Tensor] = []
    back = torch.empty(bounds[-1], dtype=torch.int64)
    cells = 0
    while segments:
        width = segments[0][0]
        # A causal row hides what is padded on its right; rows that see all must be full.
        least = FILL * width if causal else width
        count = sum(length >= least for length, _ in segments)
        group, segments = segments[:count], segments[count:]
        batches.append(_Batch(len(group), width))
        for length, start in group:
            take.append((start + torch.arange(width)).clamp_(max=start + length - 1))
            back[start : start + length] = torch.arange(cells, cells + length)
            cells += width
    return _Layout(tuple(batches), torch.cat(take).to(device), back.to(device))


class _Spread(torch.autograd.Function):
    """``tokens[take]``. Padding cells have no gradient, so each token takes its own cell's."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, layout: _Layout) -> torch.Tensor:
        ctx.back = layout.back
        return tokens.index_select(0, layout.take)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.index_select(0, ctx.back), None


class _Gather(torch.autograd.Function):
    """``cells[back]``; the gradient of a padding cell is zero."""

    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, layout: _Layout) -> torch.Tensor:
        ctx.back, ctx.cells = layout.back, len(cells)
        return cells.index_select(0, layout.back)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        cells = gradient.new_zeros(ctx.cells, *gradient.shape[1:])
        return cells.index_copy_(0, ctx.back, gradient), None


def _in_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    scaling: float | None,
    dropout: float,
    causal: bool,
) -> torch.Tensor:
    """SDPA over segments of [T, heads, head size] tensors, laid out as rows."""
    layout = _layout(tuple(bounds.tolist()), causal, query.device)
    tensors = (query, key, value)
    if layout.take is not None:
        tensors = tuple(_Spread.apply(tensor, layout) for tensor in tensors)
    outputs, done = [], 0
    for rows, width in layout.batches:
        cells = slice(done, done + rows * width)
        done += rows * width
        attended = scaled_dot_product_attention(
            *(t[cells].unflatten(0, (rows, width)).transpose(1, 2) for t in tensors),
            dropout_p=dropout,
            is_causal=causal,
            scale=scaling,
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if layout.take is None else _Gather.apply(output, layout)


class _Rows:
    """What `packed_attention` calls where no kernel fits."""

    attend = staticmethod(_in_rows)


@functools.cache
def keep_uncompiled() -> None:
    """Let compiled blocks call attention in rows as it is: each row has a layout of its own."""
    _Rows.attend = staticmethod(torch.compiler.disable(_in_rows))


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
