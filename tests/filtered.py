"""For tests of filters: samples by hand or of audited files, and one filter run on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shardline import registry
from shardline.decisions import Context, Verdict, check_filter
from shardline.media import audit_image
from shardline.parallel import Workers
from shardline.samples import Medium, Sample
from shardline.scoring import Run, images_of, scorer_options

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


def judge(name: str, samples: list[Sample], raw: Path = Path("."), **options: Any) -> Verdict:
    """What a filter decides about samples of one dataset whose raw data is in ``raw``."""
    module = registry.load("filters", name)
    options = {**module.DEFAULTS, **options}
    check_filter(module, options)
    with Workers(1) as workers:
        scores = {}
        if hasattr(module, "scorer"):
            scorer_name, given = module.scorer(options)
            scorer = registry.load("scorers", scorer_name)
            files = images_of(samples)
            run = Run(model=None, device="cpu", threads=1, workers=workers)
            chosen = scorer_options(scorer_name, scorer, given)
            found = scorer.score([raw / path for path in files.values()], chosen, run)
            scores = dict(zip(files, found, strict=True))
        context = Context(
            dataset="d",
            options=options,
            earlier=[],
            benchmarks=[],
            raw=raw.parent,
            load=lambda _: [],
            phashes=lambda _: {},
            scores=scores,
        )
        return module.judge(samples, context)


def rejected(verdict: Verdict) -> dict[int, str]:
    """Number and reason of each rejected sample."""
    return {
        int(name.rpartition("#")[2]): decision.reason for name, decision in verdict.rejected.items()
    }
