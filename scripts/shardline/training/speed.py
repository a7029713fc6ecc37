"""Faster steps with the same result but for rounding: compiled blocks and fused kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch

from shardline import attention, varlen
from shardline.errors import ConfigError
from shardline.hardware import Hardware
from shardline.training.zero_config import preset_zero_stage

GRAPHS = 64
"""Compiled versions of one function, at most; a block has a few, for each kind of block."""


def prepare_speed(hardware: Hardware) -> None:
    """See that the preset's keys for speed go together, and choose what attention runs on.

    Raises:
        ConfigError: they do not, or a package is missing; the message names the keys.
    """
    if hardware.device == "cuda":
        varlen.choose(hardware.attention)
    if hardware.kernels == "liger" and hardware.device != "cuda":
        raise ConfigError(
            f"hardware preset {hardware.name!r}: kernels: liger runs on a GPU only; device is "
            f"{hardware.device}: set kernels: none"
        )
    if hardware.compile == "none":
        return
    if hardware.kernels != "none":
        raise ConfigError(
            f"hardware preset {hardware.name!r}: compile: {hardware.compile} fuses what kernels: "
            f"{hardware.kernels} would replace; set one of them to none"
        )
    if preset_zero_stage(hardware) == 3:
        raise ConfigError(
            f"hardware preset {hardware.name!r}: compile: {hardware.compile} does not go with ZeRO "
            f"stage 3 of {hardware.deepspeed}, whose weights come and go between layers; set "
            "compile: none, or take a lower stage"
        )


def speed_up(model: torch.nn.Module, hardware: Hardware, fixed_length: bool) -> None:
    """Make a tuned model's forward and backward faster, in place.

    Args:
        fixed_length: every row has the same number of tokens.

    Raises:
        ConfigError: a package is missing, or its kernels are not for this model.
    """
    keep_half(model)
    if hardware.kernels == "liger":
        take_liger(model)
    if hardware.compile == "blocks":
        compile_blocks(model, fixed_length)


def keep_half(model: torch.nn.Module) -> None:
    """Let adapters in fp32 read activations as they are, where the base is in half precision.

    Autocast has the products in half precision anyway; PEFT would write each layer's input once
    more in fp32 before.
    """
    half = {parameter.dtype for parameter in model.parameters()} & {torch.bfloat16, torch.float16}
    for layer in model.modules():
        if half and hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = False


def compile_blocks(model: torch.nn.Module, fixed_length: bool) -> None:
    """Compile each block of the model's stacks; blocks of one kind share what is compiled.

    Blocks of the vision tower are compiled for any number of patches.
    """
    import torch._dynamo

    attention.keep_uncompiled()
    torch._dynamo.config.recompile_limit = GRAPHS
    for name, module in model.named_modules():
        if name.endswith("language_model"):
            module.register_forward_pre_hook(_without_media, with_kwargs=True)
    for name, block in blocks(model):
        block.compile(dynamic=not (fixed_length and "language_model" in name))


def _without_media(_: Any, given: Any, keywords: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Without what transformers means for the vision tower, whose shapes vary."""
    media = ("image_", "video_")
    return given, {key: value for key, value in keywords.items() if not key.startswith(media)}


def blocks(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Names and modules of the blocks: what lies in a list of layers of one class."""
    for name, stack in model.named_modules():
        if isinstance(stack, torch.nn.ModuleList) and len({type(block) for block in stack}) == 1:
            yield from ((f"{name}.{number}", block) for number, block in enumerate(stack))


def take_liger(model: torch.nn.Module) -> None:
    """Put Liger's RMSNorm and SwiGLU into the language model's layers.

    Raises:
        ConfigError: the package is missing, or no layer is of the kind that it replaces.
    """
    try:
        import liger_kernel.transformers.functional  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"kernels: liger needs the package liger-kernel ({error}); install it, or set kernels: "
            "none in the hardware preset"
        ) from None
    replaced = set()
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if "language_model" in name and kind.endswith("RMSNorm"):
            layer.__class__ = _fused_norm(type(layer))
            replaced.add("norm")
        elif "language_model" in name and hasattr(layer, "gate_proj") and _is_silu(layer):
            layer.__class__ = _fused_feed_forward(type(layer))
            replaced.add("feed-forward")
    if replaced != {"norm", "feed-forward"}:
        raise ConfigError(
            "kernels: liger: the language model has no RMSNorm and SwiGLU layers to replace; set "
            "kernels: none in the hardware preset"
        )


def _is_silu(layer: Any) -> bool:
    return layer.act_fn(torch.ones(1)).item() == torch.nn.functional.silu(torch.ones(1)).item()


@cache
def _fused_norm(norm_class: type[torch.nn.Module]) -> type[torch.nn.Module]:
    from liger_kernel.transformers.functional import liger_rms_norm

    class FusedRMSNorm(norm_class):
        def forward(self, rows):
            options = {"casting_mode": "llama", "in_place": False}
            return liger_rms_norm(rows, self.weight, self.variance_epsilon, **options)

    return FusedRMSNorm


@cache
def _fused_feed_forward(layer_class: type[torch.nn.Module]) -> type[torch.nn.Module]:
    from liger_kernel.transformers.functional import liger_swiglu

    class FusedFeedForward(layer_class):
        def forward(self, rows):
            return self.down_proj(liger_swiglu(self.gate_proj(rows), self.up_proj(rows)))

    return FusedFeedForward
