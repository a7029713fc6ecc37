"""For tests of filters: samples by hand or of audited files, and filters run on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import decide_filters
import score_image_shard
import write_filter_manifest
import write_image_shard
import write_score_manifest
from project_root import ROOT
from raw_datasets import command_line
from shardline import registry
from shardline.decisions import Context, Verdict, check_filter
from shardline.files import read_json, short_hash
from shardline.media import audit_image
from shardline.parallel import Workers
from shardline.samples import Medium, Sample
from shardline.scoring import Run, images_of, scorer_options, scores_name

MAX_PIXELS = 100_000_000


def message(role: str, *parts: str) -> dict[str, Any]:
    """A message of text parts; the part ``<image>`` is an image."""
    content = [
        {"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts
    ]
    return {"role": role, "content": content}


def sample(number: int = 0, *messages: dict[str, Any], **fields: Any) -> Sample:
    """A sample whose id ends in its number."""
    return Sample(id=f"d:rows.json#{number}", dataset="d", messages=list(messages), **fields)


def sized(number: int, *sizes: tuple[int, int], kind: str = "image") -> Sample:
    """A sample with a medium of each size."""
    media = [
        Medium(kind=kind, path=f"{number}-{place}.png", width=width, height=height)
        for place, (width, height) in enumerate(sizes)
    ]
    return sample(number, media=media)


def audited(raw: Path, paths: Iterable[Path]) -> tuple[list[Sample], dict[str, str]]:
    """A sample for each image file below ``raw`` that passes the audit; why the others do not."""
    samples, reasons = [], {}
    for number, path in enumerate(sorted(paths)):
        name = path.relative_to(raw).as_posix()
        audit = audit_image(str(path), MAX_PIXELS)
        if audit.reason:
            reasons[name] = audit.reason
            continue
        medium = Medium(
            kind="image", path=name, width=audit.width, height=audit.height, sha256=audit.sha256
        )
        samples.append(sample(number, media=[medium]))
    return samples, reasons


def context_of(
    module: Any, scores: Mapping[str, Mapping[str, float]] | None = None, **fields: Any
) -> Context:
    """What a filter is given about dataset ``d``; other keywords are its options."""
    raw = fields.pop("raw", Path("."))
    options = {**module.DEFAULTS, **fields}
    check_filter(module, options)
    return Context(
        dataset="d",
        options=options,
        earlier=[],
        benchmarks=[],
        raw=raw.parent,
        load=lambda _: [],
        phashes=lambda _: {},
        scores=scores or {},
    )


def judge(name: str, samples: list[Sample], raw: Path = Path("."), **options: Any) -> Verdict:
    """What a filter decides about samples of one dataset whose raw data is in ``raw``."""
    module = registry.load("filters", name)
    context = context_of(module, raw=raw, **options)
    if hasattr(module, "scorer"):
        scorer_name, given = module.scorer(context.options)
        scorer = registry.load("scorers", scorer_name)
        files = images_of(samples)
        with Workers(1) as workers:
            run = Run(model=None, device="cpu", threads=1, workers=workers)
            chosen = scorer_options(scorer_name, scorer, given)
            found = scorer.score([raw / path for path in files.values()], chosen, run)
            context.scores = dict(zip(files, found, strict=True))
    return module.judge(samples, context)


def score_images(
    results: Path,
    dataset: str,
    scorer: str,
    options: dict[str, Any],
    *,
    plugins: Sequence[str] = (),
    model: Path | str = "",
    threads: int = 1,
) -> str:
    """Score all images of a converted dataset, as the rules do; return the scores' name."""
    chosen = scorer_options(scorer, registry.load("scorers", scorer, plugins), options)
    name = f"{scorer}-{short_hash(chosen)}"
    given = json.dumps({"scorer": scorer, "scorer_options": chosen, "plugins": list(plugins)})
    converted, folder = results / "converted" / dataset, results / "scores" / dataset / name
    for shard in read_json(converted / "manifest.json")["shards"]:
        score_image_shard.main(
            command_line(
                **{"model-manifest": next(Path(model).glob("*config.json"), "") if model else ""},
                dataset=dataset,
                options=given,
                converted=converted / shard["name"],
                raw=results / "raw" / dataset,
                model=model,
                code="c0de",
                output=folder / scores_name(shard["name"]),
                hardware=ROOT / "config/hardware/cpu.yaml",
                threads=threads,
            )
        )
    write_score_manifest.main(
        command_line(
            dataset=dataset,
            options=given,
            converted=converted / "manifest.json",
            folder=folder,
            manifest=folder / "manifest.json",
        )
    )
    return name


def run_filters(
    results: Path,
    dataset: str,
    filters: Iterable[tuple[str, dict[str, Any]]],
    *,
    variant: str = "v",
    threads: int = 1,
    plugins: Sequence[object] = (),
    models: Sequence[Path] = (),
    **context: Any,
) -> dict[str, Any]:
    """Run a chain on a converted dataset, scored first where a filter judges by scores.

    Args:
        filters: names and options.
        models: folders of the scorers' models, for the filters that judge by scores, in order.
        context: ``earlier``, ``benchmarks`` and other options of the program.

    Returns:
        The summary of the decisions.
    """
    plugins = [str(file) for file in plugins]
    left = list(models)
    entries = []
    for name, options in filters:
        entry: dict[str, Any] = {"name": name, "options": options}
        module = registry.load("filters", name, plugins) if name in _known(plugins) else None
        if hasattr(module, "scorer"):
            scorer, given = module.scorer({**module.DEFAULTS, **options})
            entry["scores"] = score_images(
                results,
                dataset,
                scorer,
                given,
                plugins=plugins,
                model=left.pop(0) if left else "",
                threads=threads,
            )
        entries.append(entry)
    decisions = results / "filtered" / dataset / variant / "decisions.json"
    decide_filters.main(
        command_line(
            dataset=dataset,
            variant="v",
            options=json.dumps(
                {"filters": entries, "shard_bytes": 10**9, "plugins": plugins, **context}
            ),
            converted=results / "converted",
            raw=results / "raw",
            scores=results / "scores" / dataset,
            decisions=decisions,
            threads=threads,
        )
    )
    return read_json(decisions)


def write_shards(results: Path, name: str) -> dict[str, Any]:
    """Write and list the image shards of a decided dataset."""
    folder = results / f"filtered/{name}/v"
    for entry in read_json(folder / "decisions.json")["shards"]:
        shard = entry["shard"]
        write_image_shard.main(
            command_line(
                dataset=name,
                shard=shard,
                decisions=folder / "decisions.json",
                converted=results / "converted" / name,
                raw=results / "raw" / name,
                output=folder / f"shard-{shard}.tar",
            )
        )
    return list_shards(results, name)


def list_shards(results: Path, name: str) -> dict[str, Any]:
    """List a dataset's image shards; return the manifest."""
    folder = results / f"filtered/{name}/v"
    write_filter_manifest.main(
        command_line(
            decisions=folder / "decisions.json",
            folder=folder,
            manifest=folder / "manifest.json",
            report=folder / "report.json",
            rejects=folder / "rejects.jsonl",
        )
    )
    return read_json(folder / "manifest.json")


def _known(plugins: Sequence[str]) -> list[str]:
    return registry.names("filters", plugins)


def rejected(verdict: Verdict) -> dict[int, str]:
    """Number and reason of each rejected sample."""
    return {
        int(name.rpartition("#")[2]): decision.reason for name, decision in verdict.rejected.items()
    }
