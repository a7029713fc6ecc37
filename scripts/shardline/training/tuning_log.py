"""What is trained, how, and what will be saved of it: lines for the log."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.media_kinds import IMAGE, VIDEO, sample_kinds
from shardline.plan_file import Plan
from shardline.training.outcome import EXTRA
from shardline.training.quantising import parameter_count
from shardline.training.tuning import (
    EMBEDDINGS,
    MODULES,
    Tune,
    base_name,
    is_adapter,
)

if TYPE_CHECKING:
    import torch


def describe(model: torch.nn.Module, family: Any, tune: Tune) -> list[str]:
    """Counts and rates a module, LoRA layers a block, the embeddings, and what is saved.

    Args:
        model: tuned, as `apply_tuning` returns it.
    """
    total, trained = Counter(), Counter()
    for name, parameter in model.named_parameters():
        module = family.module_of(name)
        total[module] += parameter_count(parameter)
        if parameter.requires_grad:
            trained[module] += parameter_count(parameter)
    lines = [_module(module, tune, trained[module], total[module]) for module in MODULES]
    if idle := _idle(model, family, tune):
        lines.append(f"not used by any answer, so left as they are: {', '.join(idle)}")
    return [*lines, *_adapters(model), *_embeddings(model, tune), _saved(model, family)]


def mixed_media(tune: Tune, plan: Plan, results: Path) -> list[str]:
    """A warning, if the vision tower is tuned and the plan has images and videos.

    Args:
        results: the folder that the plan's paths are relative to.

    Raises:
        DataError: an index is not the planned one.
    """
    mode = tune["vision"]["mode"]
    if mode == "frozen":
        return []
    kinds, _ = sample_kinds(plan, results)
    if np.bitwise_or.reduce(kinds) != IMAGE | VIDEO:
        return []
    return [
        f"warning: tune.vision is {mode} and the plan has images and videos; the authors of the "
        "Qwen-VL models advise to keep the vision tower frozen with mixed data (tune.vision: "
        "frozen), or to train it in a stage of images alone"
    ]


def _module(module: str, tune: Tune, trained: int, total: int) -> str:
    options = tune[module]
    line = f"{module}: {options['mode']}, {trained:,} of {total:,} parameters"
    if not trained:
        return line
    decay = float(options.get("weight_decay", 0.0))
    return f"{line}, learning rate {options['lr']:g}, weight decay {decay:g}" + (
        " (norms and biases: none)" if decay else ""
    )


def _idle(model: torch.nn.Module, family: Any, tune: Tune) -> list[str]:
    """Blocks that a tuned module has and no answer depends on."""
    if not (unread := getattr(family, "unread", None)):
        return []
    return sorted(
        {
            _block(base_name(name))
            for name, _ in model.named_parameters()
            if tune[family.module_of(name)]["mode"] != "frozen" and unread(model, base_name(name))
        }
    )


def _block(name: str) -> str:
    """The block that a parameter is of, or its layer."""
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else name.rpartition(".")[0]


def _adapters(model: torch.nn.Module) -> list[str]:
    layers: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            layer = base_name(name).split(".lora_A.")[0]
            shape = getattr(parameter, "ds_shape", parameter.shape)
            layers.setdefault(re.sub(r"\.\d+\.", ".*.", layer), []).append(shape[0])
    return [
        f"LoRA: {layer} in {len(ranks)} block(s), rank {', '.join(map(str, sorted(set(ranks))))}"
        for layer, ranks in sorted(layers.items())
    ]


def _embeddings(model: torch.nn.Module, tune: Tune) -> list[str]:
    """How the embeddings and the output head are handled."""
    found = {
        name.split(".")[-2]: parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name.endswith(".weight") and name.split(".")[-2] in EMBEDDINGS
    }
    if len(found) < len(EMBEDDINGS):
        return []
    tied = len({id(parameter) for parameter in found.values()}) == 1
    what = "one tied matrix" if tied else "two matrices"
    mode = tune["llm"]["mode"]
    if mode == "full":
        how = "trained once, as one parameter" if tied else "both trained with the llm"
    else:
        how = "frozen with the llm" if mode == "frozen" else "not adapted and left as they are"
    return [f"embed_tokens and lm_head: {what}, {how}"]


def _saved(model: torch.nn.Module, family: Any) -> str:
    if not hasattr(model, "peft_config"):
        return "saved: the whole model"
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    adapters = sum(is_adapter(name) for name in names)
    line = f"saved: an adapter of {adapters} tensors"
    if others := Counter(family.module_of(name) for name in names if not is_adapter(name)):
        parts = ", ".join(f"{count} of {module}" for module, count in sorted(others.items()))
        line += f"; in {EXTRA} beside it, tensors trained in full: {parts}"
    return line
