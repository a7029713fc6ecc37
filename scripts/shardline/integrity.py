"""Do the files on the disk have the sizes and hashes that locks and manifests say?

Every manifest lists the files that its stage wrote. They are collected first, without reading one
of them; then all are hashed, several at a time (hashing releases Python's lock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shardline import locks, paths
from shardline.errors import DataError
from shardline.files import read_json, sha256_file

Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One file as its ``manifest`` lists it; ``part`` names the stage and data it belongs to."""

    part: str
    path: Path
    bytes: int | None
    sha256: str
    manifest: Path

    @property
    def size(self) -> int:
        """Bytes to read."""
        if self.bytes is not None:
            return self.bytes
        return self.path.stat().st_size if self.path.is_file() else 0


@dataclass
class Listing:
    """All files to verify, and what was wrong with the lists themselves."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    manifests: list[tuple[Path, Json]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes to read."""
        return sum(entry.size for entry in self.entries)


def manifests_of_results(results: Path) -> list[Path]:
    """Every lock and manifest below ``results``, in the order of the stages."""
    patterns = (
        *("raw/*.lock.json", "raw/models/*.lock.json", "converted/*/manifest.json"),
        *("classifiers/*.json", "scores/*/*/manifest.json"),
        *("filtered/*/*/decisions.json", "filtered/*/*/manifest.json", "tokens/*/*/manifest.json"),
        "features/*/*/*/manifest.json",
        *("plans/*/*.json", "checkpoints/*/*/result.json", "models/*/*/*.json"),
    )
    return [path for pattern in patterns for path in sorted(results.glob(pattern))]


def manifests_of_recipe(project: Any, recipe: str) -> list[Path]:
    """The locks and manifests that a recipe's report rests on.

    Args:
        project: a `shardline.config.project.Project` of this recipe alone.
    """
    names = [paths.lock(dataset) for (dataset,) in project.fetch]
    models = project.source_models.all
    names += [paths.model_lock(name) for (name,) in models]
    names += [paths.converted(dataset) for (dataset,) in project.convert]
    names += [paths.classifier(scores) for (scores,) in project.train_classifier]
    names += [paths.image_scores(*key) for key in project.score_images]
    for key in project.decide:
        names += [paths.decisions(*key), paths.filtered(*key)]
    names += [paths.tokens(*key) for key in project.tokenize]
    names += [paths.features(*key) for key in project.features]
    for stage in project.config.recipes[recipe].stages:
        names += [paths.plan(recipe, stage.name), paths.result(recipe, stage.name)]
        names += [
            paths.export(recipe, stage.name, kind) for kind in project.exports(recipe, stage.name)
        ]
    return [Path(name) for name in names]


def collect(manifests: Iterable[Path], results: Path) -> Listing:
    """The files that locks and manifests list, each once.

    A manifest that is broken or missing is a problem of the listing.
    """
    listing = Listing()
    seen: set[Path] = set()
    for manifest in manifests:
        try:
            content = read_json(manifest)
            entries = list(_entries(manifest, content, results))
            listing.problems += _unlisted(manifest)
        except DataError as error:
            listing.problems.append(str(error))
            continue
        except (KeyError, TypeError) as error:
            listing.problems.append(f"{manifest}: not a manifest of this version: {error!r}")
            continue
        listing.manifests.append((manifest, content))
        for entry in entries:
            if entry.path not in seen:
                seen.add(entry.path)
                listing.entries.append(entry)
    return listing


def _entries(manifest: Path, content: Json, results: Path) -> Iterator[Entry]:
    part = part_of(manifest, results)

    def entry(path: Path, row: Json, name: str = "") -> Entry:
        size = row.get(f"{name}bytes")
        return Entry(part, path, size, row[f"{name}sha256"], manifest)

    folder = manifest.parent
    if manifest.name.endswith(".lock.json"):
        raw = Path(paths.model_of_lock(str(manifest)))
        archives = locks.read_archives(manifest)
        there = {path: locked for path, locked in archives.items() if (raw / path).is_file()}
        for path, locked in {**locks.read_files(manifest), **there}.items():
            yield Entry(part, raw / path, locked.bytes, locked.sha256, manifest)
    elif content["stage"] == "decide":
        for shard in content["shards"]:
            yield entry(folder / f"decisions-{shard['shard']}.jsonl", shard)
    elif content["stage"] == "plan":
        yield entry(manifest.with_suffix(".parquet"), content, "parquet_")
    elif content["stage"] == "train":
        for weights in content["weights"]:
            yield entry(folder / weights["name"], weights)
    elif content["stage"] in ("export", "train_classifier"):
        for file in content["files"]:
            yield entry(Path(paths.model_of_lock(str(manifest))) / file["name"], file)
    else:
        for shard in content["shards"]:
            yield entry(folder / shard["name"], shard)
            if "index" in shard:
                yield entry(folder / shard["index"], shard, "index_")


def _unlisted(manifest: Path) -> list[str]:
    """Raw files that no lock knows: later stages could read what nobody locked."""
    if not manifest.name.endswith(".lock.json"):
        return []
    raw = Path(paths.model_of_lock(str(manifest)))
    return [f"{raw / path}: not in {manifest}" for path in locks.unlisted(manifest, raw)]


def part_of(manifest: Path, results: Path) -> str:
    """What a manifest is about: ``raw/<d>``, ``tokens/<d>/<t>``, ``plans/<r>/<s>``, ..."""
    name = manifest.relative_to(results).as_posix()
    for ending in (".lock.json", "/manifest.json", "/decisions.json", "/result.json", ".json"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def check(
    entries: Sequence[Entry], threads: int, progress: Callable[[Entry], None] | None = None
) -> Iterator[tuple[Entry, str]]:
    """Yield each entry in order with what is wrong with its file, or "".

    Args:
        progress: called, from any thread, with every entry that is done.
    """

    def one(entry: Entry) -> str:
        problem = check_entry(entry)
        if progress:
            progress(entry)
        return problem

    with ThreadPoolExecutor(threads) as pool:
        yield from zip(entries, pool.map(one, entries), strict=True)


def check_entry(entry: Entry) -> str:
    """What is wrong with one file, as a sentence that names it, or ""."""
    listed = f"{entry.manifest} lists"
    try:
        if not entry.path.is_file():
            return f"{entry.path}: missing; {listed} it"
        size = entry.path.stat().st_size
        if entry.bytes is not None and size != entry.bytes:
            return f"{entry.path}: {size} bytes; {listed} {entry.bytes}"
        found = sha256_file(entry.path)
    except OSError as error:
        return f"{entry.path}: cannot be read: {error.strerror}"
    if found != entry.sha256:
        return f"{entry.path}: sha256 {found[:16]}…; {listed} {entry.sha256[:16]}…"
    return ""


def version_notes(manifests: Iterable[tuple[Path, Json]]) -> list[str]:
    """Packages whose recorded version is not the installed one, with the manifests it concerns."""
    recorded: dict[tuple[str, str], list[str]] = {}
    for manifest, content in manifests:
        for package, number in (content.get("versions") or {}).items():
            recorded.setdefault((package, number), []).append(str(manifest))
    notes = []
    for (package, number), names in sorted(recorded.items()):
        installed = _installed(package)
        if installed not in (None, number):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            notes.append(f"{package} {number} made {names[0]}{more}; installed is {installed}")
    return notes


def _installed(package: str) -> str | None:
    """The installed version; None for what is no package (zlib) or not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
