"""A family with the token merging of a stage: the same names, and fewer tokens a picture.

Whatever takes a family takes this in its place. A family that can merge tokens has ``Merging`` and
``merging_of``; any other one is given back as it is.

An exported model's ``config.json`` has ``token_merging``: ``{"ratio", "slowfast"}``. Stock
transformers ignores it and merges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shardline.errors import DataError
from shardline.files import read_json

KEY = "token_merging"
"""Of a stage's options, of a plan and of an exported model's config."""


def family_of_stage(family: Any, options: Mapping[str, Any], folder: Path) -> Any:
    """The family as a stage sees, whatever the model in a folder was trained with.

    Args:
        options: of the stage; it merges tokens if they have ``token_merging``.
        folder: of a model with as many layers as the one that the stage trains.
    """
    if not hasattr(family, "merging_of"):
        return family
    section = options.get(KEY)
    return MergingFamily(family, section and family.merging_of(section, folder))


def family_of_plan(family: Any, plan: Mapping[str, Any]) -> Any:
    """The family as the stage of a plan sees.

    Args:
        plan: its JSON.
    """
    if not hasattr(family, "merging_of"):
        return family
    section = plan.get(KEY)
    names = ("ratio", "layers", "slowfast")
    return MergingFamily(family, section and family.Merging(*(section[name] for name in names)))


def family_of_model(family: Any, folder: Path) -> Any:
    """The family as the model in a folder was trained to see.

    Raises:
        DataError: what its config says of token merging cannot be.
    """
    if not hasattr(family, "merging_of"):
        return family
    if (section := read_json(folder / "config.json").get(KEY)) is None:
        return family
    ratio = section.get("ratio") if isinstance(section, dict) else None
    if type(ratio) not in (int, float) or not 0 < ratio <= 1:
        raise DataError(f"{folder / 'config.json'}: {KEY} = {section!r} has no ratio from 0 to 1")
    section = {"ratio": ratio, "slowfast": section.get("slowfast") is True}
    return family_of_stage(family, {KEY: section}, folder)


class MergingFamily:
    """A family bound to a stage's token merging, or bound to none."""

    def __init__(self, family: Any, merging: Any) -> None:
        """Args: ``merging``: a ``Merging`` of the family, or None."""
        self._family = family
        self.merging = merging
        for name in ("visual_tokens", "expand", "positions", "vision_inputs"):
            setattr(self, name, partial(getattr(family, name), merging=merging))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # else copying would ask for `_family` before it is there
            raise AttributeError(name)
        return getattr(self._family, name)

    def load_model(self, folder: Path, *arguments: Any, **options: Any) -> Any:
        """The family's ``load_model``; its tower merges tokens, and its config says so.

        Raises:
            DataError: the tower is not the one that the merging was planned for.
        """
        model = self._family.load_model(folder, *arguments, **options)
        if hasattr(model.config, KEY):
            delattr(model.config, KEY)
        if self.merging:
            from shardline.token_merging import merge_tokens

            self._check(model.config, folder)
            merge_tokens(model, self.merging)
            found = {"ratio": self.merging.ratio, "slowfast": self.merging.slowfast}
            setattr(model.config, KEY, found)
        return model

    def _check(self, config: Any, folder: Path) -> None:
        layers, taken = config.vision_config.num_hidden_layers, config.vision_feature_layer
        for name, value, expected in (
            ("vision_config.num_hidden_layers", layers, self.merging.layers),
            ("vision_feature_layer", taken, -2),
        ):
            if value != expected:
                raise DataError(
                    f"{folder}: {name} is {value}, and token merging counts on {expected}"
                )
