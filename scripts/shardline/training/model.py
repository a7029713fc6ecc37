"""The model that a stage trains: its base, tuned as the stage asks."""

from __future__ import annotations

from typing import Any

import torch

from shardline.training.inputs import Stage
from shardline.training.quantising import loading_options
from shardline.training.tuning import apply_tuning
from shardline.vision_features import DTYPES, take_features


def tuned_model(stage: Stage, family: Any, device: torch.device) -> torch.nn.Module:
    """The base, tuned as the stage asks: what is trained, an adapter too, is in fp32.

    With DeepSpeed in bf16 all is bf16: its optimiser has fp32 copies of what is trained.
    """
    options = stage.options
    dtype = DTYPES[options["precision"]]
    copies = stage.hardware.deepspeed is not None and options["precision"] == "bf16"
    loading = loading_options(family, dtype, device) if options.get("quantise") else {}
    model = family.load_model(stage.model, dtype, device, **loading)
    if stage.features:
        take_features(model, family, options["features"])
    for name, parameter in model.named_parameters():
        if options["tune"][family.module_of(name)]["mode"] == "full" and not copies:
            parameter.data = parameter.data.float()
    if stage.hardware.gradient_checkpointing:
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(options["seed"])
    model = apply_tuning(model, family, options["tune"])
    if copies:
        for parameter in model.parameters():
            if parameter.is_floating_point():  # what is quantised is packed into bytes
                parameter.data = parameter.data.to(torch.bfloat16)
    return model
