"""The registry's modules and those of the user's plug-in files, as a config names them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shardline import registry
from shardline.errors import ConfigError


class Modules:
    """Modules by kind and name, with the plug-in files of a config."""

    def __init__(self, plugins: Iterable[str]) -> None:
        self.plugins = sorted(plugins)

    def load(self, kind: str, name: str) -> Any:
        """A module, or what a plug-in file offers in its place."""
        return registry.load(kind, name, self.plugins)

    def check(self, kind: str, name: str, where: str) -> None:
        """See that there is such a module.

        Raises:
            ConfigError: there is none; the message begins with ``where``, a place in the config.
        """
        if name not in (known := registry.names(kind, self.plugins)):
            raise ConfigError(f"{where} = {name!r}: no such module; allowed: {', '.join(known)}")

    def plugins_of(self, **named: list[str]) -> list[str]:
        """The plug-in files that provide any of the named modules, and no others."""
        return [
            plugin
            for plugin in self.plugins
            if any(name in registry.offered(kind, plugin) for kind in named for name in named[kind])
        ]
