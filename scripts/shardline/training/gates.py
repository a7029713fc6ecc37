"""Checks around a training: a pack is what its samples are alone; only what is tuned moves."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from shardline.errors import GateError
from shardline.training.gathered import values_of
from shardline.training.packs import Row, join, stock_losses, supervised, token_losses
from shardline.training.tuning import MODULES, Tune

TOLERANCE = 1e-4  # relative, fp32
FIT = 0.05  # relative; bfloat16 rounds by 0.002, kernels of other devices add to it
KERNELS = 1e-3  # relative, fp32; a GPU's kernels may round products of fp32 to tf32
LAYERS = 2  # blocks a tower of the probe: a leak shows in the first


def packing_parity(
    model: torch.nn.Module, family: Any, samples: Sequence[Row], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Compare a pack with its samples alone: each sample's loss and each module's gradient.

    The probe is an fp32 copy of the first blocks of the model. Alone, a sample goes through the
    model's stock forward: its own positions, no boundaries. The model itself is left as it is.

    Args:
        samples: rows of one sample each.

    Returns:
        ``{"passed": True, "max_difference", "tolerance"}``, the difference relative to the
        sample's loss or the module's gradient norm.

    Raises:
        GateError: a difference is over the tolerance; the message says where.
    """
    with _first_blocks(model, LAYERS):
        probe = copy.deepcopy(model).float().eval()
    probe.requires_grad_(True)
    alone = [stock_losses(probe, family, sample) for sample in samples]
    torch.cat(alone).sum().backward()
    alone = [losses.sum().item() for losses in alone]
    expected = _gradients(probe, family)
    probe.zero_grad()
    losses = token_losses(probe, family, join(samples))
    losses.sum().backward()
    packed = [part.sum().item() for part in losses.split([len(supervised(s)) for s in samples])]
    found = _gradients(probe, family)

    differences = {
        f"the loss of sample {index + 1}": abs(a - b) / max(abs(a), 1e-12)
        for index, (a, b) in enumerate(zip(alone, packed, strict=True))
    }
    for module, gradient in expected.items():
        norm = gradient.norm().item()
        if norm > 0:
            change = (gradient - found[module]).norm().item()
            differences[f"the gradient of {module}"] = change / norm
    place, worst = max(differences.items(), key=lambda item: item[1])
    if not worst <= tolerance:
        raise GateError(
            f"packing parity: {place} differs by {worst:.2g} (relative) between a pack of "
            f"{len(samples)} samples and the samples alone; allowed is {tolerance:g}. Samples of a "
            "pack see each other, or their positions are wrong: training would be poisoned"
        )
    return {"passed": True, "max_difference": worst, "tolerance": tolerance}


def kernel_parity(
    model: torch.nn.Module,
    family: Any,
    samples: Sequence[Row],
    fuse: Callable[[torch.nn.Module], None],
    tolerance: float = KERNELS,
) -> dict[str, Any]:
    """Compare the loss and each module's gradient of a pack before and after kernels are fused.

    The probe is an fp32 copy of the first blocks of the model, which is left as it is.

    Args:
        fuse: puts the kernels into a model.

    Returns:
        As `packing_parity`.

    Raises:
        GateError: a difference is over the tolerance.
    """
    with _first_blocks(model, LAYERS):
        probe = copy.deepcopy(model).float().eval()
    probe.requires_grad_(True)
    results = []
    for change in (None, fuse):
        if change:
            change(probe)
        probe.zero_grad()
        loss = token_losses(probe, family, join(samples)).sum()
        loss.backward()
        results.append({"loss": loss.detach().flatten(), **_gradients(probe, family)})
    plain, fused = results
    changes = {
        name: ((value - fused[name]).norm() / value.norm().clamp_min(1e-12)).item()
        for name, value in plain.items()
    }
    place, worst = max(changes.items(), key=lambda item: item[1])
    if not worst <= tolerance:
        raise GateError(
            f"fused kernels: {place} differs by {worst:.2g} (relative) from what the plain layers "
            f"give; allowed is {tolerance:g}. Set kernels: none in the hardware preset"
        )
    return {"passed": True, "max_difference": worst, "tolerance": tolerance}


def _gradients(model: torch.nn.Module, family: Any) -> dict[str, torch.Tensor]:
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(family.module_of(name), []).append(parameter.grad.flatten())
    return {module: torch.cat(gradients) for module, gradients in parts.items()}


@contextlib.contextmanager
def _first_blocks(model: torch.nn.Module, layers: int) -> Iterator[None]:
    """The model with only the first blocks of each stack, for as long as the context lasts."""
    stacks = [
        (owner, name, stack)
        for owner in model.modules()
        # How many tokens are left by a tower that merges them follows from its number of blocks.
        if not getattr(owner, "merging", None)
        for name, stack in owner.named_children()
        if isinstance(stack, torch.nn.ModuleList) and len(stack) > layers
    ]
    configs = {id(owner.config): owner.config for owner, _, _ in stacks if _counts(owner)}.values()
    counts = [config.num_hidden_layers for config in configs]
    try:
        for owner, name, stack in stacks:
            setattr(owner, name, stack[:layers])
        for config in configs:  # by which transformers counts from the last block
            config.num_hidden_layers = layers
        yield
    finally:
        for owner, name, stack in stacks:
            setattr(owner, name, stack)
        for config, count in zip(configs, counts, strict=True):
            config.num_hidden_layers = count


def _counts(owner: torch.nn.Module) -> bool:
    return hasattr(getattr(owner, "config", None), "num_hidden_layers")


def features_fit(
    tower: Any, pictures: Sequence[Row], stored: Sequence[Row], tolerance: float = FIT
) -> dict[str, Any]:
    """Compare stored features with those that the model's own vision tower gives now.

    Args:
        tower: a `VisionTower` of the model, to the point at which the features were taken.
        pictures, stored: the same samples, with their images and with their features.

    Returns:
        ``{"passed": True, "max_difference", "tolerance"}``, the norm of a medium's difference
        relative to that of its features; 0 where no sample has a medium.

    Raises:
        GateError: a difference is over the tolerance.
    """
    worst = 0.0
    for place, (seen, read) in enumerate(zip(pictures, stored, strict=True), start=1):
        if not seen["media_types"]:
            continue
        computed = tower(seen["images"], seen["image_grid_thw"].tolist())
        pairs = zip(computed, read["features"], strict=True)
        for number, (now, then) in enumerate(pairs, start=1):
            difference = (now.float() - then.float()).norm() / now.float().norm().clamp_min(1e-12)
            worst = max(worst, difference.item())
            if not difference <= tolerance:
                raise GateError(
                    f"features: those of medium {number} of sample {place} differ by "
                    f"{difference:.2g} (relative) from what the model's vision tower gives; "
                    f"allowed is {tolerance:g}. They are of another model: remove their folder and "
                    "run snakemake"
                )
    return {"passed": True, "max_difference": worst, "tolerance": tolerance}


Digests = dict[str, dict[str, str]]
"""``{module: {"frozen": sha256, "trained": sha256}}``; a part without parameters is absent."""


def parameter_digests(
    model: torch.nn.Module, family: Any, trained: Mapping[str, torch.Tensor] | None = None
) -> Digests:
    """Hash the parameters of each module, trainable ones (as fp32) apart from the others.

    With parameters that are split over ranks (ZeRO stage 3) every rank must call this.

    Args:
        trained: values of trainable parameters that are to be hashed in place of the model's.
    """
    trained = trained or {}
    hashes: dict[str, dict[str, Any]] = {module: {} for module in MODULES}
    for name, parameter in sorted(model.named_parameters()):
        part = "trained" if parameter.requires_grad else "frozen"
        digest = hashes[family.module_of(name)].setdefault(part, hashlib.sha256())
        values = (trained[name] if name in trained else values_of(parameter)).cpu()
        values = values.float() if parameter.requires_grad else values
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        module: {part: digest.hexdigest() for part, digest in parts.items()}
        for module, parts in hashes.items()
    }


def freeze_audit(before: Digests, after: Digests, tune: Tune) -> dict[str, Any]:
    """Check that what was frozen stayed, and that what was tuned moved.

    Returns:
        ``{"passed": True, "moved": {module: bool}}``.

    Raises:
        GateError: a frozen parameter moved, or a tuned module did not.
    """
    moved = {}
    for module in MODULES:
        if before[module].get("frozen") != after[module].get("frozen"):
            raise GateError(
                f"freeze audit: frozen parameters of {module} moved during training "
                f"(tune.{module}.mode is {tune[module]['mode']})"
            )
        moved[module] = before[module].get("trained") != after[module].get("trained")
        if tune[module]["mode"] != "frozen" and not moved[module]:
            raise GateError(
                f"freeze audit: tune.{module}.mode is {tune[module]['mode']}, but no parameter of "
                f"{module} moved: no gradient reaches it, or its learning rate is 0"
            )
    return {"passed": True, "moved": moved}
