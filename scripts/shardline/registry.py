"""Finding a format, filter, scorer, metric, task, family, source or generator by its name.

A kind is a sub-package of `shardline`, a name is a module in it; there is no list to keep.
A user's plug-in file adds to a kind by defining classes or functions under
``shardline_<kind> = {"name": object}``, where the object has what a module of that kind has.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shardline.errors import ConfigError
from shardline.files import sha256_bytes

KINDS = (
    "sources", "generators", "formats", "filters", "scorers", "tasks", "families", "metrics",
)  # fmt: skip


def names(kind: str, plugins: Sequence[str] = ()) -> list[str]:
    """All names of a kind, without importing the built-in modules."""
    package = importlib.import_module(f"shardline.{kind}")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    for plugin in plugins:
        found |= set(offered(kind, plugin))
    return sorted(found)


def offered(kind: str, plugin: str) -> dict[str, Any]:
    """What a plug-in file adds to a kind, by name."""
    return getattr(load_plugin(plugin), f"shardline_{kind}", {})


def load(kind: str, name: str, plugins: Sequence[str] = ()) -> Any:
    """The module (or the plug-in's object) that implements ``name``.

    Raises:
        ConfigError: no such name; the message lists the names there are.
    """
    for plugin in plugins:
        if name in (found := offered(kind, plugin)):
            return found[name]
    if name.isidentifier() and importlib.util.find_spec(f"shardline.{kind}.{name}"):
        return importlib.import_module(f"shardline.{kind}.{name}")
    raise ConfigError(
        f"no {kind} module is named {name!r}; there are: {', '.join(names(kind, plugins))}"
    )


def load_plugin(path: str) -> ModuleType:
    """Import a user's plug-in file once.

    Raises:
        ConfigError: the file is missing or does not import.
    """
    file = Path(path)
    module_name = f"shardline_plugin_{sha256_bytes(str(file.resolve()).encode())[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if not file.is_file():
        raise ConfigError(f"plugins: {path}: no such file")
    spec = importlib.util.spec_from_file_location(module_name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ConfigError(f"plugins: {path} does not import: {error!r}") from error
    return module
