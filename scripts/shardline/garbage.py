"""What nothing refers to any more: work of other settings, unused variants, dead writers' files.

Only folders under ``checkpoints/*/*/work``, ``filtered``, ``scores``, ``classifiers``, ``tokens``
and ``features``, temporary files and archives whose content is unpacked and locked are ever named
here; other raw data, locks, results, reports and Snakemake's records are not.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline import dag, folders, locks, paths
from shardline.errors import UserError
from shardline.files import read_json, short_hash

QUIET_SECONDS = 3600  # a writer on another machine touches its file more often than this
_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.tmp$")
_VARIANTS = {"filtered": "*/*", "scores": "*/*", "tokens": "*/*", "features": "*/*/*"}


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go, and why."""

    path: Path
    bytes: int
    why: str


def find_waste(project: Any, results: Path) -> tuple[list[Waste], list[str]]:
    """What can go, and notes on what is left alone although this config does not name it.

    Args:
        project: a `shardline.config.project.Project` of all recipes.
    """
    unknown = recipes_of_results(results) - set(project.config.recipes)
    notes = [
        f"results of the recipe {name!r}, which this config does not have, and the data it used "
        "are left alone; give its --configfile"
        for name in sorted(unknown)
    ]
    waste = [*unused_variants(project, unknown, results)]
    if not unknown:
        waste += unused_classifiers(project, results)
    waste += unpacked_archives(results)
    waste += superseded_work(project, results)
    waste += dead_files(results)
    return waste, notes


def recipes_of_results(results: Path) -> set[str]:
    """Names of all recipes that left something."""
    return {
        folder.name
        for kind in ("plans", "checkpoints", "models", "evals")
        for folder in (results / kind).glob("*")
        if folder.is_dir()
    }


def unused_variants(project: Any, unknown: set[str], results: Path) -> Iterator[Waste]:
    """Filtered, scored and tokenised variants and features that no recipe of the config names.

    Variants of datasets that a recipe in ``unknown`` planned with are kept.
    """
    kept = {dataset for recipe in unknown for dataset in _planned_datasets(recipe, results)}
    known = {
        "filtered": set(project.decide),
        "scores": set(project.score_images),
        "tokens": set(project.tokenize),
        "features": set(project.features),
    }
    for kind, depth in _VARIANTS.items():
        for folder in sorted((results / kind).glob(depth)):
            key = folder.relative_to(results / kind).parts
            if folder.is_dir() and key not in known[kind] and key[0] not in kept:
                yield Waste(folder, _size(folder), "no recipe of the config uses it")


def unused_classifiers(project: Any, results: Path) -> Iterator[Waste]:
    """Trained classifiers that no recipe of the config judges by."""
    for manifest in sorted((results / "classifiers").glob("*.json")):
        if (manifest.stem,) not in project.train_classifier:
            for path in (manifest, manifest.with_suffix("")):
                size = _size(path) if path.is_dir() else path.stat().st_size
                yield Waste(path, size, "no recipe of the config uses it")


def _planned_datasets(recipe: str, results: Path) -> set[str]:
    found = set()
    for plan in (results / "plans" / recipe).glob("*.json"):
        found |= {shard["path"].split("/")[1] for shard in read_json(plan)["shards"]}
    return found


def unpacked_archives(results: Path) -> Iterator[Waste]:
    """Archives that a lock names: no stage reads them. Those of folders elsewhere are left."""
    for lock in sorted((results / "raw").glob("*.lock.json")):
        raw = Path(paths.model_of_lock(str(lock)))
        if not raw.is_symlink():
            for path, archive in locks.read_archives(lock).items():
                if (file := raw / path).is_file():
                    size = 0 if file.is_symlink() else archive.bytes
                    yield Waste(file, size, "an archive whose content is unpacked and locked")


def superseded_work(project: Any, results: Path) -> Iterator[Waste]:
    """Work folders that are neither the current result's nor what the config would train now."""
    for work in sorted((results / "checkpoints").glob("*/*/work")):
        recipe, stage = work.parts[-3:-1]
        result = work.parent / "result.json"
        kept = {read_json(result)["key"]} if result.is_file() else set()
        if (recipe, stage) in project.train:
            if (key := current_key(project, recipe, stage)) is None and not kept:
                continue
            kept.add(key)
        elif not kept:
            continue
        for folder in sorted(work.iterdir()):
            if folder.is_dir() and folder.name not in kept and not is_leased(folder):
                yield Waste(
                    folder, _size(folder), f"a training of {recipe}/{stage} with other settings"
                )


def current_key(project: Any, recipe: str, stage: str) -> str | None:
    """The work folder's name for the stage as configured; None before its inputs are there."""
    from shardline.training.workkey import work_key

    kind, name = project.initial_model(recipe, stage)
    model = paths.model_lock(name) if kind == "model" else paths.export(recipe, name, "merged")
    plan = Path(paths.plan(recipe, stage))
    features, validation, parent = (
        [Path(file) for file in find(recipe, stage)]
        for find in (project.features_of, project.validation_of, project.parent_of)
    )
    files = (plan, Path(model), *features, *validation, *parent)
    if not all(file.is_file() for file in files):
        return None
    options = project.train[recipe, stage]
    code = short_hash(dag.code("train_stage", options))
    return work_key(options, plan, Path(model), code, features, validation, parent)


def is_leased(folder: Path) -> bool:
    """Whether a living process trains in a work folder."""
    try:
        descriptor = os.open(folder / "lease", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def dead_files(results: Path) -> Iterator[Waste]:
    """Temporary files whose writer is gone; nothing inside a dataset's raw folder is looked at."""
    for parent, names, files in os.walk(results):
        here = Path(parent)
        if here in (results / "raw", results / "raw" / "models"):
            names[:] = [name for name in names if name == "models" and here.name == "raw"]
        for name in sorted(files):
            if (match := _TEMPORARY.match(name)) and _is_dead(here / name, int(match["pid"])):
                yield Waste(here / name, (here / name).stat().st_size, "its writer is gone")


def _is_dead(file: Path, pid: int) -> bool:
    """No such process here, and no writer elsewhere has touched the file for long."""
    if time.time() - file.stat().st_mtime < QUIET_SECONDS:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def remove(waste: Waste, results: Path) -> None:
    """Remove one finding; a folder's manifest first, so that what is left never looks whole.

    Raises:
        UserError: the path is not below ``results``.
    """
    inside = waste.path.parent.resolve()
    if not inside.is_relative_to(results.resolve()):
        raise UserError(f"{waste.path} leads out of {results}: not removed")
    if waste.path.is_dir() and not waste.path.is_symlink():
        for manifest in ("manifest.json", "decisions.json", "run.json"):
            (waste.path / manifest).unlink(missing_ok=True)
    folders.remove(waste.path)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
