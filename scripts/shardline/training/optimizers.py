"""The optimisers of a recipe: classes that transformers' Trainer knows, over our groups.

Nothing here imports torch or transformers before a function that needs them is called.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardline.errors import ConfigError

if TYPE_CHECKING:
    from transformers import TrainingArguments

ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
LION = {"betas": [0.9, 0.99]}


@dataclass(frozen=True)
class Optimizer:
    """What a recipe's name stands for.

    Attributes:
        name: of transformers' ``OptimizerNames``.
        reads: the options that it reads, with their defaults.
        package: what must be installed.
        paged: moves its state between GPU and CPU memory, so that it needs a GPU.
    """

    name: str
    reads: Mapping[str, Any]
    package: str = ""
    paged: bool = False


OPTIMIZERS = {
    "adamw": Optimizer("adamw_torch_fused", ADAM),
    "adamw_8bit": Optimizer("adamw_8bit", ADAM, "bitsandbytes"),
    "paged_adamw_8bit": Optimizer("paged_adamw_8bit", ADAM, "bitsandbytes", paged=True),
    "lion": Optimizer("lion_32bit", LION, "bitsandbytes"),
    "lion_8bit": Optimizer("lion_8bit", LION, "bitsandbytes"),
    "paged_lion_8bit": Optimizer("paged_lion_8bit", LION, "bitsandbytes", paged=True),
    "adafactor": Optimizer("adafactor", {}),
    "sgd": Optimizer("sgd", {"momentum": 0.0}),
}


def optimizer_named(name: str) -> Optimizer:
    """The optimiser of a recipe's name.

    Raises:
        ConfigError: there is none.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer.name: {name!r} is not one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def complete_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimiser reads: given values, and its own defaults for the others.

    Args:
        given: any of ``betas``, ``eps`` and ``momentum``; None is not given.

    Raises:
        ConfigError: an unknown name, or an option that this optimiser does not read.
    """
    reads = optimizer_named(name).reads
    given = {key: value for key, value in given.items() if value is not None}
    if unread := sorted(set(given) - set(reads)):
        raise ConfigError(
            f"optimizer.{unread[0]} = {given[unread[0]]}: {name} does not read it; allowed: "
            f"{', '.join(reads) or 'neither betas, eps nor momentum'}; null takes back a value "
            "that is inherited"
        )
    return {**reads, **given}


def class_and_options(
    arguments: TrainingArguments, options: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> tuple[type, dict[str, Any]]:
    """The optimiser's class and its keywords, as the Trainer's ``optimizer_cls_and_kwargs``.

    Args:
        options: ``name``, and what that optimiser reads.
        groups: parameter groups, each with its own ``lr`` and ``weight_decay``.
    """
    from transformers import Trainer

    betas = options.get("betas", ADAM["betas"])
    chosen = copy.copy(arguments).set_optimizer(
        name=optimizer_named(options["name"]).name,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=float(options.get("eps", ADAM["eps"])),
        args=f"momentum={options['momentum']}" if "momentum" in options else None,
    )
    optimizer, keywords = Trainer.get_optimizer_cls_and_kwargs(chosen)
    return optimizer, {**keywords, "params": list(groups)}
