"""Checks of a stage's token options against what its family and its task can do."""

from __future__ import annotations

from typing import get_args

from shardline.config.modules import Modules
from shardline.config.token_schema import Tokens
from shardline.errors import ConfigError


def check_tokens(family: str, tokens: Tokens, where: str, modules: Modules) -> None:
    """See that the task is known, that the family can write its answers, that crops change them.

    Raises:
        ConfigError: one of these does not hold; names the key under `where` and what is allowed.
    """
    modules.check("tasks", tokens.task, f"{where}.task")
    unusable = getattr(modules.load("families", family), "UNUSABLE_ANSWERS", {})
    for key, values in unusable.items():
        if (value := getattr(tokens.answer, key)) in values:
            known = get_args(type(tokens.answer).model_fields[key].annotation)
            allowed = ", ".join(name for name in known if name not in values)
            raise ConfigError(
                f"{where}.answer.{key} = {value!r}: not with family {family}; allowed: {allowed}"
            )
    follows = getattr(modules.load("tasks", tokens.task), "FOLLOWS_BOXES", False)
    if (tokens.crop or tokens.variants > 1) and not follows:
        key = "crop" if tokens.crop else "variants"
        raise ConfigError(
            f"{where}.{key}: the task {tokens.task} takes its texts as they are, which a crop "
            "would make wrong and a variant repeat; leave it out"
        )
