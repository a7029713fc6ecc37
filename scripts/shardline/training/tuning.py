"""Which parameters of a model are trained, how, and with which learning rate.

Each module (``llm``, ``projector``, ``vision``, as the family names them) is frozen, trained in
full, or adapted by LoRA. Norms and biases get no weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardline.errors import ConfigError

if TYPE_CHECKING:
    import torch

MODULES = ("llm", "projector", "vision")
MODES = ("frozen", "lora", "full")
EMBEDDINGS = ("lm_head", "embed_tokens")

Tune = Mapping[str, Mapping[str, Any]]
"""``{module: {"mode", "lr", "weight_decay", "rank", "alpha", "dropout", "targets"}}``."""


def kind(tune: Tune) -> str:
    """``lora`` if any module is adapted, else ``full``.

    Raises:
        ConfigError: an unknown mode, or nothing is trained.
    """
    modes = {module: tune[module]["mode"] for module in MODULES}
    for module, mode in modes.items():
        if mode not in MODES:
            raise ConfigError(f"tune.{module}: {mode!r} is not one of {', '.join(MODES)}")
    if set(modes.values()) == {"frozen"}:
        raise ConfigError("tune: every module is frozen, so there is nothing to train")
    return "lora" if "lora" in modes.values() else "full"


def apply_tuning(model: torch.nn.Module, family: Any, tune: Tune) -> torch.nn.Module:
    """Freeze, unfreeze and adapt the modules of a model, in place.

    New LoRA weights are drawn from torch's global generator. What no answer depends on, where
    the family says so, stays frozen: between ranks it would be waited for.

    Returns:
        The model, wrapped by PEFT if a module is adapted.

    Raises:
        ConfigError: as `kind` and `lora_targets`, or two modules want another LoRA dropout.
    """
    unread = getattr(family, "unread", None)
    if kind(tune) == "lora":
        model = _adapted(model, family, tune)
    for name, parameter in model.named_parameters():
        mode = tune[family.module_of(name)]["mode"]
        trains = mode == "lora" if is_adapter(name) else mode == "full"
        # Ranks would wait for a gradient that never comes.
        reached = not (unread and unread(model, base_name(name)))
        parameter.requires_grad_(trains and reached)
    return model


def is_adapter(parameter_name: str) -> bool:
    """Whether a parameter is one that PEFT added."""
    return ".lora_" in parameter_name


def base_name(parameter_name: str) -> str:
    """The name that a parameter of a PEFT-wrapped model has in the bare model."""
    return parameter_name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def shape_of(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """A parameter's shape, also where ranks hold parts of it (ZeRO stage 3)."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def lora_targets(model: torch.nn.Module, family: Any, tune: Tune) -> dict[str, list[str]]:
    """Full names of the layers to adapt, by module.

    ``targets`` of a module picks among its linear layers by the last parts of their names; None
    takes all. The output head and the embeddings are no targets: where they are tied, merging an
    adapter into one changes the other.

    Raises:
        ConfigError: a target names an embedding, or no linear layer of its module.
    """
    chosen: dict[str, list[str]] = {}
    for module in MODULES:
        if tune[module]["mode"] != "lora":
            continue
        known = [
            name
            for name in family.lora_targets(model, module)
            if name.split(".")[-1] not in EMBEDDINGS
        ]
        wanted = tune[module].get("targets")
        chosen[module] = known if wanted is None else _pick(known, wanted, module)
    return chosen


def _pick(known: Sequence[str], wanted: Sequence[str], module: str) -> list[str]:
    for target in wanted:
        if target.split(".")[-1] in EMBEDDINGS:
            raise ConfigError(
                f"tune.{module}.targets: {target} cannot be adapted: it may share its weights with "
                "the embeddings, and merging would change both; train the module in full instead"
            )
        if not any(_ends(name, target) for name in known):
            last = sorted({name.split(".")[-1] for name in known})
            raise ConfigError(
                f"tune.{module}.targets: {target!r} is no linear layer of {module}; its layers "
                f"are: {', '.join(last)}"
            )
    return [name for name in known if any(_ends(name, target) for target in wanted)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _adapted(model: torch.nn.Module, family: Any, tune: Tune) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = lora_targets(model, family, tune)
    dropouts = {tune[module]["dropout"] for module in targets}
    if len(dropouts) > 1:
        raise ConfigError(f"tune: the adapted modules share one LoRA dropout, not {dropouts}")
    first = tune[next(iter(targets))]
    ranks, alphas = {}, {}
    for module, names in targets.items():
        for name in names:
            if tune[module]["rank"] != first["rank"]:
                ranks[name] = tune[module]["rank"]
            if tune[module]["alpha"] != first["alpha"]:
                alphas[name] = tune[module]["alpha"]
    config = LoraConfig(
        r=first["rank"],
        lora_alpha=first["alpha"],
        lora_dropout=dropouts.pop(),
        target_modules=sorted(name for names in targets.values() for name in names),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def parameter_groups(model: torch.nn.Module, family: Any, tune: Tune) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters: a module's weights, and its norms and biases.

    Norms and biases are what has one dimension; embeddings are weights. A tied matrix is one
    parameter, in one group.

    Returns:
        ``{"name": "<module>/<weights|rest>", "params", "lr", "weight_decay"}``, without empty ones.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module = family.module_of(name)
        decays = len(shape_of(parameter)) > 1
        key = f"{module}/{'weights' if decays else 'rest'}"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": float(tune[module]["lr"]),
                "weight_decay": float(tune[module].get("weight_decay", 0.0)) if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
