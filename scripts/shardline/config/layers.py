"""Reading the config: defaults, datasets and recipes, the user's own files, ``--config``.

Later layers win; mappings merge, lists are replaced. Each layer keeps its name, so that an error
can say which file the wrong value stands in.
"""

from __future__ import annotations

import copy
import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from shardline.config.schema import Config
from shardline.errors import ConfigError

_SCIENTIFIC = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


@dataclass(frozen=True)
class Layer:
    """One source of config values, by name."""

    name: str
    data: dict[str, Any]


def project_layers(root: Path) -> list[Layer]:
    """The layers that the repository itself holds, in their order."""
    folder = root / "config"
    files = [folder / "config.yaml", folder / "datasets.yaml"]
    files += sorted((folder / "recipes").glob("*.yaml"))
    return [read_layer(file, root) for file in files]


def read_layer(file: Path, root: Path | None = None) -> Layer:
    """Parse one YAML file.

    Raises:
        ConfigError: no such file, broken YAML (with its line), or no mapping.
    """
    name = str(file)
    if root and file.is_relative_to(root):
        name = str(file.relative_to(root))
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the file must hold a mapping, not a {type(data).__name__}")
    return Layer(name, data)


def merge(layers: Iterable[Layer]) -> dict[str, Any]:
    """All layers as one mapping."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _update(merged, layer.data)
    return merged


def _update(target: dict[str, Any], extra: dict[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _update(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def load(layers: Sequence[Layer]) -> Config:
    """Merge, resolve ``extends`` and validate.

    Raises:
        ConfigError: names the file, the key, the value and what is allowed.
    """
    merged = merge(layers)
    recipes = merged.get("recipes", {})
    if isinstance(recipes, dict):
        merged["recipes"] = {name: extended(name, recipes, layers) for name in recipes}
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(describe(error, layers)) from None


def extended(name: str, recipes: dict[str, Any], layers: Sequence[Layer], seen=()) -> Any:
    """A recipe with what it ``extends`` filled in.

    Keys of the extending recipe may be dotted; ``stages.<stage>.<key>`` finds a stage by name.
    """
    recipe = recipes[name]
    if not isinstance(recipe, dict) or "extends" not in recipe:
        return recipe
    parent = recipe["extends"]
    key = ("recipes", name, "extends")
    if parent not in recipes:
        allowed = ", ".join(sorted(set(recipes) - {name}))
        raise ConfigError(f"{place(key, layers)} = {parent!r}: no such recipe; allowed: {allowed}")
    if parent in (name, *seen):
        raise ConfigError(f"{place(key, layers)} = {parent!r}: recipes extend each other in a ring")
    result = copy.deepcopy(extended(parent, recipes, layers, (*seen, name)))
    for dotted, value in recipe.items():
        if dotted != "extends":
            _assign(result, dotted, value, f"{place(('recipes', name, dotted), layers)}")
    return result


def _assign(recipe: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *path, last = dotted.split(".")
    target: Any = recipe
    for part in path:
        if isinstance(target, list):
            named = {stage.get("name"): stage for stage in target if isinstance(stage, dict)}
            if part not in named:
                allowed = ", ".join(sorted(str(stage) for stage in named))
                raise ConfigError(f"{where}: there is no stage {part!r}; allowed: {allowed}")
            target = named[part]
        else:
            target = target.setdefault(part, {})
        if not isinstance(target, dict | list):
            raise ConfigError(f"{where}: {part!r} is a value, not a section")
    if isinstance(value, dict) and isinstance(target.get(last), dict):
        _update(target[last], value)
    else:
        target[last] = copy.deepcopy(value)


def place(path: Sequence[str | int], layers: Sequence[Layer]) -> str:
    """``file: key`` of a config path, in the last layer that sets it or the nearest parent."""
    keys = [str(part) for part in path]
    for length in range(len(keys), 0, -1):
        for layer in reversed(layers):
            if _holds(layer.data, keys[:length]):
                return f"{layer.name}: {'.'.join(_readable(layer.data, keys))}"
    return ".".join(keys)


def _readable(data: Any, keys: Sequence[str]) -> list[str]:
    """The keys, with stages called by name instead of position."""
    words = []
    for key in keys:
        if isinstance(data, list) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
            words.append(str(data.get("name", key)) if isinstance(data, dict) else key)
        else:
            data = data.get(key) if isinstance(data, dict) else None
            words.append(key)
    return words


def _holds(data: Any, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    if isinstance(data, list):
        if keys[0].isdigit() and int(keys[0]) < len(data):
            return _holds(data[int(keys[0])], keys[1:])
        return False
    if not isinstance(data, dict):
        return False
    return any(
        _holds(data[".".join(keys[:end])], keys[end:])
        for end in range(1, len(keys) + 1)
        if ".".join(keys[:end]) in data
    )


def describe(error: ValidationError, layers: Sequence[Layer]) -> str:
    """All problems of a validation, one a line: file, key, value, what is allowed."""
    problems = [_describe_one(item, layers) for item in error.errors(include_url=False)]
    return "\n       ".join(dict.fromkeys(problems))


def _describe_one(item: dict[str, Any], layers: Sequence[Layer]) -> str:
    path = [part for part in item["loc"] if part != "[key]"]
    where = place(path, layers)
    value = item["input"]
    if item["type"] == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), allowed, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        return f"{where}: unknown key{hint} allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{where}: this key must be given"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(value, str) and _SCIENTIFIC.match(value):
        message += f"; YAML reads {value} as text, write it with a point, as in 1.0e-4"
    shown = "" if isinstance(value, dict | list) else f" = {value!r}"
    return f"{where}{shown}: {message[0].lower()}{message[1:]}"


def _allowed_keys(path: Sequence[str | int]) -> list[str]:
    """The keys of the config section that a path leads to."""
    annotation: Any = Config
    for part in path:
        section = _section_of(annotation)
        if typing.get_origin(annotation) in (dict, list):
            annotation = typing.get_args(annotation)[-1]
        elif section:
            annotation = _keys(section).get(str(part), annotation)
    section = _section_of(annotation)
    return sorted(_keys(section)) if section else []


def _keys(section: type[BaseModel]) -> dict[str, Any]:
    """The keys of a section, as users write them, and their annotations."""
    fields = section.model_fields.items()
    return {field.alias or name: field.annotation for name, field in fields}


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The config section inside an annotation such as ``Tokens | None``, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (dict, list):
        return None
    sections = (_section_of(argument) for argument in typing.get_args(annotation))
    return next((section for section in sections if section), None)
