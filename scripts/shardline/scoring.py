"""Scores of images: what a model or a measure says about each, once, kept as an artefact.

A scorer is one module in ``shardline/scorers`` with::

    DEFAULTS: dict             # its options that shape scores, and their defaults
    MODEL: str                 # optional: the option that names its model's source
    TRAINED: bool              # optional: its model is a classifier trained with these options
    def check(options: dict)   # optional: ConfigError for values that make no sense, before any run
    def score(files: Sequence[Path], options: dict, run: Run) -> Iterable[dict[str, float]]

``score`` yields one set of finite numbers an image file, in order. ``score`` is always among them;
more is better. Of a scorer with an option ``share`` only that share of the images is scored. Scores
depend on the file's bytes, the options and the model. Those of one device differ in their last
digits from those of another: each file of scores says what made it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shardline import registry
from shardline.devices import device_name
from shardline.errors import ConfigError, DataError
from shardline.files import (
    file_entry,
    read_json,
    read_jsonl,
    sha256_file,
    short_hash,
    write_json,
    write_jsonl,
)
from shardline.known_scores import Scores, find_known, keep_known
from shardline.parallel import Workers
from shardline.samples import Sample
from shardline.versions import package_versions

PREFIX = "scores-"
PACKAGES = ("open_clip_torch", "pillow", "torch", "torchvision")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a scorer runs with; nothing here is an option.

    ``model`` is the folder of its model, if it has one; ``device`` is what torch calls it;
    ``workers`` are processes for what is done image by image.
    """

    model: Path | None
    device: str
    threads: int
    workers: Workers


def scorer_options(name: str, module: ModuleType, given: Mapping[str, Any]) -> dict[str, Any]:
    """A scorer's options: what is given over its defaults.

    Raises:
        ConfigError: an option that it does not have, or a value that makes no sense.
    """
    if unknown := sorted(set(given) - set(module.DEFAULTS)):
        raise ConfigError(
            f"scorer {name}: no option {', '.join(unknown)}; "
            f"there are: {', '.join(sorted(module.DEFAULTS)) or 'none'}"
        )
    options = {**module.DEFAULTS, **given}
    if hasattr(module, "check"):
        try:
            module.check(options)
        except ConfigError as error:
            raise ConfigError(f"scorer {name}: {error}") from None
    return options


def images_of(samples: Iterable[Sample]) -> dict[str, str]:
    """The path of every image content in samples, by sha256, in order of first appearance."""
    found: dict[str, str] = {}
    for sample in samples:
        for medium in sample.media:
            if medium.kind == "image":
                found.setdefault(medium.sha256, medium.path)
    return found


def drawn_share(images: dict[str, str], share: float) -> dict[str, str]:
    """About a share of the images, drawn by the hashes of their files: always the same ones."""
    if share == 1:
        return images
    limit = share * 16**8
    return {sha256: path for sha256, path in images.items() if int(sha256[:8], 16) < limit}


def score_shard(
    *,
    dataset: str,
    options: dict[str, Any],
    converted: Path,
    raw: Path,
    output: Path,
    model: Path | None,
    model_manifest: Path | None,
    code: str,
    device: str,
    threads: int,
) -> None:
    """Score the images of one converted shard.

    Contents that an earlier run of the dataset has scored with the same options, model and code
    are not read again: their scores lie beside ``output`` (see `known_scores`).

    Args:
        options: ``scorer``, ``scorer_options`` and ``plugins``.
        converted: the shard.
        raw: folder of the dataset's raw data.
        output: jsonl: first what made the scores, then ``{"sha256", "score", ...}`` an image.
        model: folder of the scorer's model, if it has one.
        model_manifest: its lock, or the manifest of the classifier.
        code: fingerprint of the scoring program.

    Raises:
        ConfigError: an option that the scorer does not have.
        DataError: a file that is no image any more, or a score that is no finite number.
    """
    module = registry.load("scorers", options["scorer"], options.get("plugins", []))
    chosen = scorer_options(options["scorer"], module, options["scorer_options"])
    images = images_of(Sample.from_json(row) for row in read_jsonl(converted))
    images = drawn_share(images, chosen.get("share", 1.0))
    key = short_hash([chosen, code, sha256_file(model_manifest) if model_manifest else ""])
    known = find_known(output.parent, key, images)
    new = {sha256: path for sha256, path in images.items() if sha256 not in known}
    print(f"{output.name}: {len(images)} images, {len(new)} of them new", file=sys.stderr)
    with Workers(threads) as workers:
        run = Run(model=model, device=device, threads=threads, workers=workers)
        files = [raw / path for path in new.values()]
        found = module.score(files, chosen, run) if files else []
        for (sha256, path), scores in zip(new.items(), found, strict=True):
            known[sha256] = _checked(scores, f"{dataset}/{path}", options["scorer"])
    made = {"device": device_name(device), "versions": package_versions(*PACKAGES)}
    rows = [{"sha256": sha256, **known[sha256]} for sha256 in images]
    write_jsonl(output, [made, *rows])
    block = output.stem.removeprefix(PREFIX)
    keep_known(output.parent, block, key, {sha256: known[sha256] for sha256 in images})


def list_scores(
    *, dataset: str, options: dict[str, Any], converted: Path, folder: Path, manifest: Path
) -> dict[str, Any]:
    """Write the manifest of a dataset's scores.

    Args:
        converted: the dataset's manifest.
        folder: where its score files are.

    Raises:
        DataError: a shard has no scores.
    """
    shards = []
    for shard in read_json(converted)["shards"]:
        path = folder / scores_name(shard["name"])
        if not path.is_file():
            raise DataError(f"{path}: no such file; the shard {shard['name']} was not scored")
        made, *rows = read_jsonl(path)
        entry = {**file_entry(path), "images": len(rows), "source_sha256": shard["sha256"]}
        shards.append({**entry, **made})
    content = {
        "stage": "score_images",
        "dataset": dataset,
        "scorer": options["scorer"],
        "options": options["scorer_options"],
        "images": sum(shard["images"] for shard in shards),
        "shards": shards,
    }
    write_json(manifest, content)
    return content


def scores_name(samples_name: str) -> str:
    """Name of the score file of a converted shard: ``samples-00000.jsonl.zst`` gives
    ``scores-00000.jsonl``."""
    return PREFIX + samples_name.removeprefix("samples-").removesuffix(".jsonl.zst") + ".jsonl"


def read_scores(manifest: Path) -> Scores:
    """All scores of a dataset, by sha256 of the image file.

    Raises:
        DataError: a file of scores is not what the manifest says.
    """
    scores: Scores = {}
    for shard in read_json(manifest)["shards"]:
        path = manifest.parent / shard["name"]
        if not path.is_file() or sha256_file(path) != shard["sha256"]:
            raise DataError(f"{path} is not what {manifest} says; score the images again")
        _, *rows = read_jsonl(path)
        scores |= {row.pop("sha256"): row for row in rows}
    return scores


def _checked(scores: Mapping[str, float], where: str, scorer: str) -> dict[str, float]:
    if "score" not in scores:
        raise DataError(f"{where}: scorer {scorer} gives no `score`")
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DataError(f"{where}: scorer {scorer} gives {name} {value}: not comparable")
    return {name: float(value) for name, value in scores.items()}
