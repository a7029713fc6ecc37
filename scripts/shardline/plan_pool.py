"""What a plan may draw of each dataset, and what an epoch takes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardline.arrangement import split_given
from shardline.errors import DataError
from shardline.held_out import held_out
from shardline.mixture import choose


@dataclass
class Pool:
    """One dataset's samples that a plan may draw.

    ``columns``: int32 [n] each: ``shard``, ``row``, ``length``, ``patches``, ``supervised`` and
    ``cut``, the tokens that are cut off. ``packs``: [n] the given pack of each, where packs are
    given; ``refused``: samples that tokenising rejected, ``held_out``: that are not of this part.
    """

    dataset: str
    ids: list[str] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    packs: list[str] | None = None
    rejects: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    held_out: int = 0

    @property
    def units(self) -> list[str]:
        """Names of what a share is taken of: the samples, or the given packs."""
        return self.ids if self.packs is None else list(dict.fromkeys(self.packs))

    def draw(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [n] of ``count`` units by lot, and the unit int64 [n] of each, rising."""
        chosen = choose(self.units, count, seed, self.dataset)
        if self.packs is None:
            return chosen, np.arange(len(chosen))
        numbers = {name: number for number, name in enumerate(self.units)}
        unit_of = np.array([numbers[name] for name in self.packs], dtype=np.int64)
        rows = np.argsort(unit_of, kind="stable")
        starts = np.searchsorted(unit_of[rows], np.arange(len(numbers) + 1))
        parts = [rows[starts[unit] : starts[unit + 1]] for unit in chosen.tolist()]
        if not parts:
            return chosen, chosen
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), list(map(len, parts)))


def mixture_of(
    pools: Sequence[Pool], taken: Sequence[int], options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray | None, dict[str, str]]:
    """An epoch's samples.

    Returns:
        Their columns; the given pack of each, if packs are given; and of each dataset a hash over
        the ids that were chosen, in their order.

    Raises:
        DataError: there is none.
    """
    parts, units, chosen, counted = [], [], {}, 0
    for pool, count in zip(pools, taken, strict=True):
        rows, unit = pool.draw(count, options["seed"])
        parts.append({name: values[rows] for name, values in pool.columns.items()})
        units.append(unit + counted)
        counted += int(unit[-1]) + 1 if len(unit) else 0
        digest = hashlib.sha256()
        for row in rows.tolist():
            digest.update(f"{pool.ids[row]}\n".encode())
        chosen[pool.dataset] = digest.hexdigest()
    mixture = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(mixture["length"]):
        names = ", ".join(pool.dataset for pool in pools)
        if options.get("part") == "validation":
            raise DataError(
                f"split: {names}: none of {sum(pool.held_out for pool in pools)} samples is held "
                f"out for validation = {options['split']['validation']}%; take a larger share, "
                "another seed or `by: sample`, or leave `split` out"
            )
        raise DataError(f"train: {names}: no sample is left to plan with; see the rejects")
    if pools[0].packs is None:
        return mixture, None, chosen
    budgets = options["max_length"], options.get("max_patches")
    given = split_given(mixture["length"], mixture["patches"], np.concatenate(units), *budgets)
    return mixture, given, chosen


def keep_part(
    groups: Sequence[str], ids: Sequence[str], dataset: str, options: Mapping[str, Any]
) -> np.ndarray:
    """Which samples are of the part, training or validation, that is planned; bool [n]."""
    if not (split := options.get("split")):
        return np.ones(len(ids), dtype=bool)
    if split["by"] == "sample":
        groups = [""] * len(ids)
    held = held_out(groups, ids, split["validation"], options["seed"], dataset)
    return held if options.get("part") == "validation" else ~held


def given_packs(
    packs: Sequence[str], ids: Sequence[str], options: Mapping[str, Any]
) -> list[str] | None:
    """The given pack of each sample, which is itself one where its source names none."""
    if options.get("packing") != "given":
        return None
    return [pack or name for pack, name in zip(packs, ids, strict=True)]
