"""Whole tensors of a model whose parameters the ranks may hold in parts (DeepSpeed's ZeRO)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from shardline.errors import GateError
from shardline.training.outcome import TRAINED


@contextlib.contextmanager
def whole(parameter: torch.Tensor, writer: int | None = None) -> Iterator[None]:
    """A context in which a parameter has all its values; every rank must enter it.

    Args:
        writer: the rank whose changes all ranks have afterwards.
    """
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer):
        yield


def values_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    """All values of a parameter; every rank must call this.

    Where DeepSpeed trains an fp32 copy of it, they are the copy's.
    """
    if hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad:
            return safe_get_full_fp32_param(parameter).detach()
    with whole(parameter):
        values = parameter.detach()
        return values.clone() if hasattr(parameter, "ds_id") else values


def trained_tensors(model: torch.nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, on the CPU; every rank must call this.

    Args:
        keep: False: this rank helps to gather, and gets nothing.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = values_of(parameter)
            if keep:
                tensors[name] = values.cpu().contiguous()
    return tensors


def whole_state(
    model: torch.nn.Module, trained: Mapping[str, torch.Tensor] | None, keep: bool = True
) -> dict[str, torch.Tensor]:
    """The model's state dict with whole tensors; every rank must call this.

    Args:
        trained: values that the trainable parameters have in place of the model's, if not None
            (which ranks must agree on); only ranks that keep need have them.
        keep: False: this rank helps to gather, and gets nothing.
    """
    state: dict[str, torch.Tensor] = {}
    taken: dict[int, torch.Tensor] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, value in model.state_dict(keep_vars=True).items():
        # Names that share a parameter (tied weights) go on sharing one tensor.
        if id(value) not in taken:
            if trained is None or not value.requires_grad:
                taken[id(value)] = _on_host(value, keep)
            elif keep:
                taken[id(value)] = trained[names[id(value)]]
        if keep:
            state[name] = taken[id(value)]
    return state


def _on_host(value: torch.Tensor, keep: bool) -> torch.Tensor:
    """A tensor where it is, or on the CPU and whole if ranks have parts of it."""
    with whole(value):
        whole_here = hasattr(value, "ds_id") and keep
        return value.detach().to("cpu", copy=True) if whole_here else value.detach()


def put(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the trainable parameters the values of these tensors; every rank must call this."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                with whole(parameter, writer=0):
                    parameter.copy_(tensors[name])


def take_trained(model: torch.nn.Module, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Put what a checkpoint has trained into a model; every rank must call this.

    Returns:
        Those tensors.

    Raises:
        GateError: the checkpoint is of other parameters than those trained in the model.
    """
    tensors = load_file(checkpoint / TRAINED)
    named = model.named_parameters()
    if tensors.keys() != {name for name, parameter in named if parameter.requires_grad}:
        raise GateError(f"{checkpoint}: its parameters are not those that are trained now")
    put(model, tensors)
    return tensors
