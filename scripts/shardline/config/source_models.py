"""The models that no stage makes: fetched, built from a config, a base with a merged adapter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shardline.config.modules import Modules
from shardline.config.schema import Recipe
from shardline.config.stage_options import mixture_entry
from shardline.config.stage_schema import ADAPTER
from shardline.errors import ConfigError
from shardline.files import read_json, short_hash

Options = dict[str, Any]
BUILT = "init:"


class SourceModels:
    """Options of the rules fetch_model, build_model and apply_adapter, keyed by model."""

    def __init__(self, modules: Modules, root: Path) -> None:
        self.fetch: dict[tuple[str], Options] = {}
        self.build: dict[tuple[str], Options] = {}
        self.apply_adapter: dict[tuple[str], Options] = {}
        self.adapted_from: dict[str, tuple[str, str]] = {}
        self._modules = modules
        self._root = root

    @property
    def all(self) -> dict[tuple[str], Options]:
        """The options of every model, whatever makes it."""
        return {**self.fetch, **self.build, **self.apply_adapter}

    def add_base(self, recipe: Recipe, where: str) -> str:
        """The model that a recipe begins with; returns its name.

        Raises:
            ConfigError: the config that it is to be built from does not exist.
        """
        if recipe.base.startswith(BUILT):
            return self._add_built(recipe.base.removeprefix(BUILT), recipe, where)
        return self.add_source(recipe.base, recipe.base_pickles)

    def add_init(self, init: str, recipe: Recipe, base: str) -> str:
        """The foreign model that a stage starts from: as it is, or the base with an adapter."""
        source = init.removeprefix(ADAPTER)
        if source == init:
            return self.add_source(source, recipe.base_pickles)
        adapter = self.add_source(source, adapter=True)
        name = f"{adapter}-on-{short_hash([base, recipe.family])}"
        self.apply_adapter[(name,)] = {
            "family": recipe.family,
            "plugins": self._modules.plugins_of(families=[recipe.family]),
        }
        self.adapted_from[name] = (base, adapter)
        return name

    def add_source(self, source: str, pickles: bool = False, adapter: bool = False) -> str:
        """A model of a hub or a folder; returns its name."""
        rest = source.partition(":")[2]
        words = re.sub(r"[^A-Za-z0-9]+", "-", rest.split("@")[0].strip("/").split("/")[-1])
        options = {
            "source": source,
            **({"source_options": {"pickles": True}} if pickles else {}),
            **({"adapter": True} if adapter else {}),
        }
        name = f"{words}-{short_hash(options if pickles or adapter else source)}"
        self.fetch[(name,)] = options
        return name

    def _add_built(self, file: str, recipe: Recipe, where: str) -> str:
        path = self._root / file
        if not path.is_file():
            raise ConfigError(f"{where}.base = {recipe.base!r}: no such file")
        options = {
            "config": read_json(path),
            "family": recipe.family,
            "task": recipe.tokens.task,
            "tokens": recipe.tokens.model_dump(exclude={"task"}),
            "datasets": sorted(
                {
                    mixture_entry(entry, f"{where}.train")[0]
                    for stage in recipe.stages
                    for entry in stage.train or recipe.train
                }
            ),
            "plugins": self._modules.plugins_of(
                families=[recipe.family], tasks=[recipe.tokens.task]
            ),
        }
        name = f"{path.stem}-{short_hash({**options, 'plugins': []})}"
        self.build[(name,)] = options
        return name
