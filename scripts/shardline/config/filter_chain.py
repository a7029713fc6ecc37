"""A chain of filters as a config has it, checked: options, and the scores that filters judge by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shardline.config.modules import Modules
from shardline.config.schema import MODEL_SOURCE
from shardline.decisions import check_filter
from shardline.errors import ConfigError
from shardline.files import short_hash
from shardline.scoring import scorer_options

Options = dict[str, Any]


@dataclass(frozen=True)
class UsedScorer:
    """A scorer with all its options; ``scores`` names the folder of what it gives.

    ``labels`` is the dataset that it is trained on, ``model`` the source of its model, if any.
    """

    name: str
    options: Options
    scores: str
    labels: str | None
    model: str | None


@dataclass(frozen=True)
class UsedFilter:
    """A filter with all its options, its place in the config, and its scorer, if it has one."""

    name: str
    options: Options
    where: str
    scorer: UsedScorer | None

    @property
    def entry(self) -> Options:
        """What the filtering program reads of it."""
        scores = {"scores": self.scorer.scores} if self.scorer else {}
        return {"name": self.name, "options": self.options, **scores}


def check_filters(
    entries: list[dict[str, Options]], where: str, modules: Modules
) -> list[UsedFilter]:
    """The filters of a chain in order.

    Args:
        entries: ``{name: options}`` each.
        where: of the chain's stage or recipe in the config.

    Raises:
        ConfigError: no such filter or scorer, or an option that it has not or that makes no sense.
    """
    return [
        _used(name, given, where, modules) for entry in entries for name, given in entry.items()
    ]


def _used(name: str, given: Options, where: str, modules: Modules) -> UsedFilter:
    modules.check("filters", name, f"{where}.filters")
    where = f"{where}.filters.{name}"
    module = modules.load("filters", name)
    defaults = module.DEFAULTS
    if unknown := sorted(set(given) - set(defaults)):
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(defaults)) or 'none'}"
        )
    for key, value in given.items():
        if problem := _problem(value, defaults[key]):
            raise ConfigError(f"{where}.{key}: {value!r}; {problem}")
    options = {**defaults, **given}
    try:
        check_filter(module, options)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None
    scorer = None
    if hasattr(module, "scorer"):
        scorer = _scorer(*module.scorer(options), where, modules)
    return UsedFilter(name, options, where, scorer)


def _scorer(name: str, given: Options, where: str, modules: Modules) -> UsedScorer:
    modules.check("scorers", name, f"{where}.scorer")
    scorer = modules.load("scorers", name)
    try:
        chosen = scorer_options(name, scorer, given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    model = chosen.get(getattr(scorer, "MODEL", "")) or None
    if model and (not re.match(MODEL_SOURCE, model) or model.startswith("init:")):
        raise ConfigError(
            f"{where}.{scorer.MODEL} = {model!r}; allowed: hub://owner/name@revision, folder:/path"
        )
    labels = chosen["labels"] if getattr(scorer, "TRAINED", False) else None
    return UsedScorer(name, chosen, f"{name}-{short_hash(chosen)}", labels, model)


def _problem(value: Any, default: Any) -> str | None:
    """What is allowed instead of a filter's option, going by the kind of its default."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "allowed: true, false"
    if isinstance(default, int):
        whole = number and isinstance(value, int) and value >= 0
        return None if whole else "allowed: a whole number from 0 on"
    if isinstance(default, float):
        return None if number else "allowed: a number"
    if default is None or isinstance(value, type(default)):
        return None
    return f"allowed: {'a list' if isinstance(default, list | tuple) else 'text'}"
