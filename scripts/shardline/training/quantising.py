"""Quantised base weights: the linear layers of the language model as 4-bit normal floats."""

from __future__ import annotations

from typing import Any

import torch


def loading_options(family: Any, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Keywords of ``from_pretrained`` for nf4 with double quantisation (QLoRA, arXiv:2305.14314).

    The vision tower, the projector, the embeddings and the output head keep their precision.

    Args:
        dtype: that the layers compute in.
        device: where they are quantised, layer by layer as they are read.
    """
    from transformers import BitsAndBytesConfig

    kept = [f"model.{family.TOWER}", f"model.{family.PROJECTOR}", "lm_head"]
    return {
        "device_map": {"": str(device)},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        ),
    }


def parameter_count(parameter: torch.nn.Parameter) -> int:
    """Numbers in a parameter: two a byte if it is quantised; all, if ranks hold parts of it."""
    if state := getattr(parameter, "quant_state", None):
        return state.shape.numel()
    return getattr(parameter, "ds_numel", parameter.numel())
