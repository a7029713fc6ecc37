"""What the rule files need to say why a job runs: tracked parameters and the code behind them.

Snakemake compares the set of a job's parameters with the set of its last run. One string an
option (``options.tune.llm.lr=0.0001``) and one a code file (``scripts/x.py@1f2e3d4c``) therefore
make ``snakemake -n`` name exactly what changed, and two swapped values count as changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardline import fingerprint
from shardline.files import canonical_json, short_hash

Table = dict[tuple[str, ...], dict[str, Any]]

_KINDS = {
    "format": "formats",
    "scorer": "scorers",
    "family": "families",
    "task": "tasks",
    "metric": "metrics",
}


class Unused:
    """Fills parameter slots that a job does not need: Snakemake tracks no value of its type."""


def flatten(value: Any, path: str) -> list[str]:
    """``path.key=value`` for every leaf of nested plain data, sorted."""
    if isinstance(value, dict) and value:
        return [row for key in sorted(value) for row in flatten(value[key], f"{path}.{key}")]
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        return [row for i, item in enumerate(value) for row in flatten(item, f"{path}.{i}")]
    return [f"{path}={json.dumps(value, sort_keys=True, ensure_ascii=False)}"]


def modules(options: dict[str, Any]) -> list[Path | str]:
    """The registry modules and plug-in files that a job's options name."""
    named = [(kind, options[key]) for key, kind in _KINDS.items() if options.get(key)]
    for entry in options.get("filters", []):
        named += [("filters", entry["name"])]
    if source := options.get("source"):
        scheme, _, rest = source.partition(":")
        named += [("sources", scheme)]
        named += [("generators", rest)] if scheme == "generate" else []
    files = [fingerprint.registry_file(kind, name) for kind, name in named]
    plugins = [str(Path(plugin).resolve()) for plugin in options.get("plugins", [])]
    return [file for file in files if file] + plugins


def code(program: str, options: dict[str, Any]) -> list[str]:
    """``path@digest`` of everything a program runs with these options."""
    return fingerprint.closure(f"scripts/{program}.py", *modules(options))


class Tracked:
    """The parameters of one rule: what its program reads, and its code, tracked entry by entry."""

    def __init__(self, program: str, table: Table, *wildcards: str) -> None:
        self._program = program
        self._table = table
        self._wildcards = wildcards
        self._rows: dict[tuple[str, ...], list[str]] = {}

    def _key(self, wildcards: Any) -> tuple[str, ...]:
        return tuple(getattr(wildcards, name) for name in self._wildcards)

    def _entries(self, key: tuple[str, ...]) -> list[str]:
        if key not in self._rows:
            options = self._table[key]
            self._rows[key] = flatten(options, "options") + code(self._program, options)
        return self._rows[key]

    @property
    def params(self) -> list[Callable[[Any], Any]]:
        """One function of the wildcards a slot; as many slots as the longest job needs."""
        width = max((len(self._entries(key)) for key in self._table), default=0)
        return [self._slot(index) for index in range(width)]

    def _slot(self, index: int) -> Callable[[Any], Any]:
        def entry(wildcards):
            rows = self._entries(self._key(wildcards))
            return rows[index] if index < len(rows) else Unused()

        return entry

    def options(self, wildcards, input):
        """The program's ``--options``. Taking ``input`` keeps Snakemake from tracking it twice."""
        return canonical_json(self._table[self._key(wildcards)])

    def code_hash(self, wildcards, input):
        """One hash over the job's code, for the key of a training's work folder."""
        return short_hash(code(self._program, self._table[self._key(wildcards)]))

    @property
    def constraints(self) -> list[str]:
        """A pattern for each wildcard that allows exactly the table's values."""
        columns = list(zip(*self._table, strict=True)) or [()] * len(self._wildcards)
        return ["|".join(sorted(set(column))) or "(?!)" for column in columns]
