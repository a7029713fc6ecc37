"""Running a chain of filters over a converted dataset, and writing down what it decided.

A dataset's samples are divided as its image shards will be: by source shard, series and size.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from shardline import registry
from shardline.decisions import Context, Decision, check_filter
from shardline.errors import ConfigError, DataError, UserError
from shardline.files import (
    read_json,
    read_lines,
    sha256_bytes,
    sha256_file,
    short_hash,
    write_json,
    write_jsonl,
)
from shardline.parallel import Workers
from shardline.perceptual import Hasher
from shardline.samples import Sample, Samples
from shardline.scoring import read_scores
from shardline.series import series_of
from shardline.stored_samples import converted_samples
from shardline.versions import package_versions
from shardline.views import group_counts

RECORDS = "recorded.json"  # beside the summary, but no output of the rule: it outlives a rerun


def decide(
    *,
    dataset: str,
    variant: str,
    options: dict[str, Any],
    converted: Path,
    raw: Path,
    scores: Path,
    decisions: Path,
    threads: int,
) -> dict[str, Any]:
    """Judge all samples of a dataset; write one list of decisions a shard, then the summary.

    Args:
        dataset: its name.
        variant: name of the filter chain.
        options: ``filters`` (``name``, ``options`` and, if it judges by scores, ``scores``, the
            name of their folder; in order), ``earlier`` and
            ``benchmarks`` (names of datasets), ``shard_bytes`` (of media, at most), ``plugins``.
        converted: folder with one converted dataset a sub-folder.
        raw: folder with one raw dataset a sub-folder.
        scores: folder of the dataset's image scores, one scorer a sub-folder.
        decisions: where the summary goes; the lists become its siblings
            ``decisions-<shard>.jsonl``.
        threads: processes that hash images.

    Returns:
        The summary.

    Raises:
        ConfigError: an option a filter does not have.
        DataError: a converted file that is not what its manifest says.
        GateError: a filter that is a gate found too much.
    """
    decisions.unlink(missing_ok=True)
    stored = converted_samples(converted / dataset)
    samples = stored.at_hand()
    records = decisions.with_name(RECORDS)
    with Workers(threads) as workers:
        rejected, filters = _judge(
            dataset=dataset,
            options=options,
            samples=samples,
            converted=converted,
            raw=raw,
            scores=scores,
            workers=workers,
            records=records,
        )
    entries = []
    for source in stored.shards:
        block = source["name"].removeprefix("samples-").removesuffix(".jsonl.zst")
        rows = list(read_lines(stored.folder / source["name"]))
        group = [Sample.from_json(json.loads(row)) for row in rows]
        hashes = {sample.id: sha256_bytes(row) for sample, row in zip(group, rows, strict=True)}
        for series, members in _by_shard(group, rejected, options["shard_bytes"]).items():
            shard = f"{block}-{series}"
            path = decisions.with_name(f"decisions-{shard}.jsonl")
            write_jsonl(path, (_line(sample.id, hashes[sample.id], rejected) for sample in members))
            kept = [sample for sample in members if sample.id not in rejected]
            entries.append(
                {
                    "shard": shard,
                    "source": source["name"],
                    "source_sha256": source["sha256"],
                    "in": len(members),
                    "kept": len(kept),
                    "elements_kept": sum(len(sample.boxes) for sample in kept),
                    "sha256": sha256_file(path),
                }
            )
    _remove_others(decisions.parent, {entry["shard"] for entry in entries})
    summary = {
        "stage": "decide",
        "dataset": dataset,
        "variant": variant,
        "filters": filters,
        "samples": {
            "in": len(samples),
            "kept": sum(entry["kept"] for entry in entries),
            "rejected": len(rejected),
        },
        "groups": group_counts(samples, {key: made.reason for key, (_, made) in rejected.items()}),
        "shards": entries,
        "versions": package_versions("imagehash", "numpy", "pillow", "scipy"),
    }
    check_sum(dataset, summary["samples"])
    write_json(decisions, summary)
    return summary


def check_sum(dataset: str, counts: dict[str, int]) -> None:
    """See that in = kept + rejected.

    Raises:
        DataError: it is not.
    """
    if counts["in"] != counts["kept"] + counts["rejected"]:
        raise DataError(f"{dataset}: samples do not add up: {counts}")


def _judge(
    *,
    dataset: str,
    options: dict[str, Any],
    samples: Samples,
    converted: Path,
    raw: Path,
    scores: Path,
    workers: Workers,
    records: Path,
) -> tuple[dict[str, tuple[str, Decision]], list[dict[str, Any]]]:
    """Run the chain; return (filter, decision) of the rejected by id, and each filter's summary."""
    hasher = Hasher(workers, scores.parent)

    @cache
    def load(name: str) -> Samples:
        return converted_samples(converted / name).at_hand()

    def phashes(of: Iterable[Sample]) -> dict[str, int | None]:
        return hasher.hashes_of(
            (sample.dataset, medium.sha256, f"{raw}/{sample.dataset}/{medium.path}")
            for sample in of
            for medium in sample.media
            if medium.kind == "image"
        )

    rejected: dict[str, tuple[str, Decision]] = {}
    left = _Left(samples, rejected)
    summaries = []
    known = read_json(records) if records.is_file() else {}
    recorded = {}
    for entry in options["filters"]:
        module = registry.load("filters", entry["name"], options.get("plugins", []))
        chosen = _options(entry, module.DEFAULTS)
        key = f"{entry['name']}-{short_hash(chosen)}"
        context = Context(
            dataset=dataset,
            options=chosen,
            earlier=options.get("earlier", []),
            benchmarks=options.get("benchmarks", []),
            raw=raw,
            load=load,
            phashes=phashes,
            scores=read_scores(scores / entry["scores"] / "manifest.json")
            if entry.get("scores")
            else {},
            recorded=known.get(key, {}),
        )
        try:
            check_filter(module, context.options)
            verdict = module.judge(left, context)
        except UserError as error:
            raise type(error)(f"{dataset}: {error}") from None
        reasons = [made.reason for made in verdict.rejected.values()]
        rejected |= {name: (entry["name"], made) for name, made in verdict.rejected.items()}
        summaries.append(
            {
                "name": entry["name"],
                "options": context.options,
                "rejected": len(verdict.rejected),
                "reasons": dict(sorted(Counter(reasons).items())),
                "figures": verdict.figures,
                **({"scores": entry["scores"]} if entry.get("scores") else {}),
            }
        )
        if verdict.record:
            recorded[key] = verdict.record
    if recorded != known:
        write_json(records, recorded)
    return rejected, summaries


class _Left:
    """The samples that are not rejected, whenever they are gone through."""

    def __init__(self, samples: Samples, rejected: Mapping[str, Any]) -> None:
        self.samples = samples
        self.rejected = rejected

    def __len__(self) -> int:
        return len(self.samples) - len(self.rejected)

    def __iter__(self) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.id not in self.rejected)


def _options(entry: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    given = entry.get("options", {})
    if unknown := sorted(set(given) - set(defaults)):
        raise ConfigError(
            f"filters.{entry['name']}: no option {', '.join(unknown)}; "
            f"there are: {', '.join(sorted(defaults)) or 'none'}"
        )
    return {**defaults, **given}


def _by_shard(
    samples: list[Sample], rejected: Container[str], shard_bytes: int
) -> dict[str, list[Sample]]:
    """Samples by series; one whose kept media are over the limit goes on as ``<series>_1``."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    parts: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    for sample in samples:
        series = series_of(sample)
        if sample.id not in rejected:
            size = sum(medium.bytes for medium in sample.media)
            if filled[series] and filled[series] + size > shard_bytes:
                parts[series] += 1
                filled[series] = 0
            filled[series] += size
        groups[f"{series}_{parts[series]}" if parts[series] else series].append(sample)
    return dict(sorted(groups.items()))


def _line(
    sample_id: str, sha256: str, rejected: Mapping[str, tuple[str, Decision]]
) -> dict[str, Any]:
    """A decision; ``sample_sha256`` makes the list change when the sample itself does."""
    name, decision = rejected.get(sample_id, ("", Decision("")))
    return {
        "id": sample_id,
        "kept": sample_id not in rejected,
        "filter": name,
        "reason": decision.reason,
        "detail": decision.detail,
        "sample_sha256": sha256,
    }


def _remove_others(folder: Path, shards: set[str]) -> None:
    """Remove the lists of an earlier run that this one did not write."""
    for path in folder.glob("decisions-*.jsonl"):
        if path.stem.removeprefix("decisions-") not in shards:
            path.unlink()
