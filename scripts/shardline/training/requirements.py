"""What a training needs of its options, machine and plan: said before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError
from shardline.files import read_json
from shardline.hardware import Hardware, forwards
from shardline.training.optimizers import optimizer_named
from shardline.training.schedule import learning_rate_factor
from shardline.training.tuning import kind
from shardline.training.zero_config import deepspeed_config, preset_zero_stage

QUANTISED = ("nf4",)


def needed_packages(options: Mapping[str, Any], hardware: Hardware) -> set[str]:
    """Packages that this training imports and others do without."""
    needed = {optimizer_named(options["optimizer"]["name"]).package}
    if options.get("quantise"):
        needed.add("bitsandbytes")
    if hardware.deepspeed:
        needed.add("deepspeed")
    return needed - {""}


def check_requirements(options: Mapping[str, Any], hardware: Hardware, plan: Path) -> None:
    """See that options, preset, machine and plan fit each other.

    Args:
        plan: its summary.

    Raises:
        ConfigError: they do not; says which key, and what is allowed.
        DataError: there is no such plan.
    """
    check_machine(options, hardware)
    summary = read_json(plan)
    kind(options["tune"])
    check_media(options["tune"], summary)
    learning_rate_factor(options["schedule"], summary["steps"])
    counts = forwards(hardware, summary["max_packs_per_step"], plan.as_posix())
    deepspeed_config(hardware, options, *counts)


def check_machine(options: Mapping[str, Any], hardware: Hardware) -> None:
    """See that this machine and preset can do what the options ask for.

    Raises:
        ConfigError: they cannot; says which key, and what is allowed.
    """
    if hardware.auto_fit and preset_zero_stage(hardware) >= 3:
        raise ConfigError(
            f"hardware preset {hardware.name!r}: auto_fit: true does not go with ZeRO stage 3 "
            f"({hardware.deepspeed}), whose ranks compute each forward together: one that runs "
            "out of memory could not tell the others. Set micro_batch instead"
        )
    if (wanted := options.get("continue_from")) and hardware.deepspeed:
        raise ConfigError(
            f"continue_from: hardware preset {hardware.name!r} uses DeepSpeed, which takes on no "
            "optimiser of another stage; take a preset without it, or start from the weights alone "
            f"with `init: {wanted['stage']}`"
        )
    name = options["optimizer"]["name"]
    if optimizer_named(name).paged and hardware.device != "cuda":
        raise ConfigError(
            f"optimizer.name: {name} pages its state out of a GPU's memory, and the preset "
            f"{hardware.name!r} has device: {hardware.device}; allowed there: "
            f"{name.removeprefix('paged_')}"
        )
    package, key = optimizer_named(name).package, f"optimizer.name: {name}"
    if options.get("quantise"):
        package, key = "bitsandbytes", f"quantise = {options['quantise']!r}"
    if package and find_spec(package) is None:
        raise ConfigError(
            f"{key}: needs the package {package}, which is not installed here: "
            f"pip install {package}"
        )
    if quantise := options.get("quantise"):
        check_quantise(quantise, options["tune"])
        if preset_zero_stage(hardware) == 3:
            raise ConfigError(
                f"quantise = {quantise!r}: not with {hardware.deepspeed} of the preset "
                f"{hardware.name!r}, which is ZeRO stage 3: it splits each tensor over the ranks, "
                "and a 4-bit weight is no tensor that can be split and put together again without "
                "its scales. Allowed: a preset with ZeRO stage 1 or 2, or quantise: null"
            )


def check_quantise(quantise: str, tune: Mapping[str, Mapping[str, Any]], where: str = "") -> None:
    """See that a quantised language model is one that only adapters change.

    Args:
        where: the stage's place in the config with a dot behind it, for the message.

    Raises:
        ConfigError: it is tuned in full, or nothing has an adapter.
    """
    if quantise not in QUANTISED:
        raise ConfigError(
            f"{where}quantise: {quantise!r} is not one of {', '.join(QUANTISED)}, null"
        )
    if tune["llm"]["mode"] == "full":
        raise ConfigError(
            f"{where}quantise = {quantise!r}: tune.llm is full, and weights of 4 bits cannot be "
            "trained; allowed: tune.llm frozen or lora, or quantise: null"
        )
    if not any(module["mode"] == "lora" for module in tune.values()):
        raise ConfigError(
            f"{where}quantise = {quantise!r}: no module has an adapter, so that the quantised "
            "model would be what is saved; allowed: lora for a module of tune, or quantise: null"
        )


def check_media(tune: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """See that what only media train has any.

    Raises:
        ConfigError: the plan has no picture and no video, and the projector or the tower is tuned.
    """
    for module in ("projector", "vision"):
        if tune[module]["mode"] != "frozen" and not summary["patches"]:
            raise ConfigError(
                f"tune.{module}.mode: {tune[module]['mode']!r}, but no sample of the plan has a "
                "picture or a video, so that nothing would train it; allowed: frozen"
            )
