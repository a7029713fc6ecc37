"""Models of every family: their weights are drawn by name, or read whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.errors import ConfigError, DataError
from shardline.files import sha256_bytes

if TYPE_CHECKING:
    import torch

ATTENTION = "shardline_varlen"


def build(
    make: Callable[[], torch.nn.Module], seed: int, module_of: Callable[[str], str]
) -> torch.nn.Module:
    """A model whose weights follow from (``seed``, name of the parameter) with every torch.

    Norms are one and biases zero; all else is normal with the ``initializer_range`` of the text or
    the vision config; the projector has the vision's.

    Args:
        make: builds it from a config of transformers.

    Raises:
        ConfigError: transformers refuses the config.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        model = make()
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"model config: transformers refuses it: {error}") from error
    vision = model.config.vision_config.initializer_range
    spread = {"llm": model.config.text_config.initializer_range}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        if kind == "bias":
            values = np.zeros(parameter.shape, dtype=np.float32)
        elif "norm" in type(model.get_submodule(owner)).__name__.lower():
            values = np.ones(parameter.shape, dtype=np.float32)
        else:
            key = int(sha256_bytes(f"{seed}:{name}".encode())[:32], 16)
            generator = np.random.Generator(np.random.Philox(key=key))
            values = generator.standard_normal(parameter.shape, dtype=np.float32)
            values *= np.float32(spread.get(module_of(name), vision))
        parameter.data.copy_(torch.from_numpy(values))
    return model


def load_weights(
    model_class: type,
    folder: Path,
    dtype: torch.dtype,
    *,
    blocks: int | None = None,
    **loading: Any,
) -> torch.nn.Module:
    """The model of a folder, with packed attention and no KV cache (a forward for training).

    The caller imports `shardline.attention` first, which registers that attention: imported here,
    its code would be part of the fingerprint of every tokenised shard.

    Args:
        blocks: of the language model, the first; None: all.
        loading: more keywords of ``from_pretrained``.

    Raises:
        DataError: a weight is missing, unexpected or of another shape (transformers would go on
            with random values).
    """
    config = model_class.config_class.from_pretrained(folder)
    if blocks is not None:
        _cut(config.text_config, blocks)
    model, report = model_class.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=ATTENTION,
        output_loading_info=True,
        **loading,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, report[problem]))
        if blocks is not None:
            keys = [key for key in keys if not _beyond(key, blocks)]
        if keys:
            raise DataError(f"{folder}: {problem.replace('_', ' ')}: {', '.join(keys[:5])}")
    if conversions := getattr(model, "_weight_conversions", None):
        # Loaded in parts, a model remembers renamings that its files did not need, and would be
        # saved under other names.
        model._weight_conversions = [
            one for one in conversions if not hasattr(one, "was_used") or one.was_used()
        ]
    model.config.use_cache = False
    model.config.text_config.use_cache = False
    return model


def _cut(config: Any, blocks: int) -> None:
    config.num_hidden_layers = min(blocks, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]


def _beyond(key: str, blocks: int) -> bool:
    """Whether a weight is of a later block of the language model."""
    found = re.search(r"(?<!encoder\.)layers\.(\d+)\.", key)
    return bool(found) and int(found[1]) >= blocks


def linear_layers(
    model: torch.nn.Module, module: str, module_of: Callable[[str], str]
) -> list[str]:
    """Full names of the linear layers of a module, without ``lm_head`` (it may be tied)."""
    import torch

    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and module_of(name) == module
        and name.split(".")[-1] != "lm_head"
    ]
