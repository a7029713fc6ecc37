"""Kernels of variable-length attention on a GPU: PyTorch's own, or FlashAttention's packages."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from shardline.errors import ConfigError

PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""Module that has ``flash_attn_varlen_func``, and the package that brings it."""
KINDS = ("auto", "sdpa", *PACKAGES)
HALF = (torch.bfloat16, torch.float16)

_KNOWN = tuple(inspect.signature(varlen_attn).parameters)  # they differ between versions of torch


class _Chosen:
    """What this process attends with."""

    flash: Callable[..., Any] | None = None
    plain = False


def choose(kind: str) -> None:
    """Set what packed attention runs on in this process, where tensors are on a GPU.

    Args:
        kind: ``auto``: PyTorch's ``varlen_attn``; ``sdpa``: rows of scaled dot product attention,
            as on a CPU; else a FlashAttention package.

    Raises:
        ConfigError: an unknown kind, or its package cannot be imported.
    """
    if kind not in KINDS:
        raise ConfigError(f"attention: {kind!r} is not one of {', '.join(KINDS)}")
    _Chosen.flash, _Chosen.plain = None, kind == "sdpa"
    if kind in PACKAGES:
        module, package = PACKAGES[kind]
        try:
            _Chosen.flash = staticmethod(importlib.import_module(module).flash_attn_varlen_func)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"attention: {kind} needs the package {package} ({error}); install it, or set "
                "attention: auto in the hardware preset"
            ) from None


def fits(query: torch.Tensor) -> bool:
    """Whether `attend` takes these queries."""
    return query.is_cuda and query.dtype in HALF and not _Chosen.plain


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Attention [T, heads, head size] within each segment of a row.

    Args:
        query: [T, heads, head size]; ``key`` and ``value`` may have fewer heads.
        bounds: int32 [segments + 1]; a segment may be empty.
        longest: at least the longest segment's length. Behind it nothing would be written.
    """
    query, key, value = (tensor.contiguous() for tensor in (query, key, value))
    if _Chosen.flash is not None:
        attended = _Chosen.flash(
            *(query, key, value, bounds, bounds, longest, longest),
            softmax_scale=scaling,
            causal=causal,
        )
        return attended[0] if isinstance(attended, tuple) else attended
    options: dict[str, Any] = {"scale": scaling}
    if "window_size" in _KNOWN:
        options["window_size"] = (-1, 0) if causal else (-1, -1)
    else:
        options["is_causal"] = causal
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in _KNOWN:
            options["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    return varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)
