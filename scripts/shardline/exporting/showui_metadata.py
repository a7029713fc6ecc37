"""Samples as a ShowUI metadata file, which the format `showui` reads and ShowUI trains on.

A file is a list of screens, the path of each relative to ``images/``::

    {"img_url": "a.png", "img_size": [1280, 720], "element_size": 1, "element": [
        {"instruction": "Save", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "text",
         "point": [0.2, 0.3]}]}

Fields of the source that the format keeps (``id``, ``split``, ...) are written beside these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from shardline.annotations import text_fields
from shardline.embedded import place_of, read_medium
from shardline.errors import ConfigError, DataError
from shardline.files import atomic_file, canonical_json, sha256_bytes, sha256_file
from shardline.formats.showui import META_KEYS
from shardline.rows import Rejection
from shardline.samples import Sample, to_unit
from shardline.stored_samples import read_manifest, read_samples


def export_showui_metadata(
    *, manifest: Path, output: Path, rejects: Path, raw: Path | None, images: Path | None
) -> dict[str, int]:
    """Write the samples that a manifest lists as one metadata file, in constant memory.

    Args:
        manifest: of a converted or a filtered dataset.
        output: the metadata file.
        rejects: where the samples that are not in it go, with the reason.
        raw: the dataset's raw folder; needed with ``images``.
        images: if given, the screenshots are copied there; ShowUI wants this folder to be called
            ``images`` and to lie beside that of the metadata file.

    Returns:
        Counts: ``in``, ``kept``, ``rejected``.

    Raises:
        ConfigError: ``images`` without ``raw``.
        DataError: an input is not what its manifest says, or ``images`` has another picture of
            the same name.
    """
    if images and not raw:
        raise ConfigError("--images: copying the screenshots needs --raw, the folder they are in")
    counts: Counter[str] = Counter()
    dataset = read_manifest(manifest)["dataset"]
    with atomic_file(rejects, "w") as lines:

        def counted() -> Iterator[Sample]:
            for sample in read_samples(manifest):
                counts["in"] += 1
                yield sample

        def left_out(sample: Sample, rejection: Rejection) -> None:
            counts["rejected"] += 1
            line = {
                "dataset": dataset,
                "row": sample.id.removeprefix(f"{dataset}:"),
                "stage": "export",
                "reason": rejection.reason,
                "detail": rejection.detail,
            }
            lines.write(canonical_json(line) + "\n")

        copy = partial(_copy, raw, images) if images else None
        kept = write_metadata(output, counted(), left_out, copy)
    return {"in": counts["in"], "kept": kept, "rejected": counts["rejected"]}


def write_metadata(
    path: Path,
    samples: Iterable[Sample],
    left_out: Callable[[Sample, Rejection], None],
    copy: Callable[[Sample, str], None] | None = None,
) -> int:
    """Write samples as a metadata file, atomically; boxes and points become fractions.

    Args:
        path: the file.
        samples: canonical samples.
        left_out: is told which are not in it: ``no_elements``; ``not_one_image``; ``in_parquet``:
            the screenshot is no file of its own and is not copied into one.
        copy: copies the screenshot of a sample to a path relative to ``images/``.

    Returns:
        How many samples are in it.
    """
    kept = 0
    with atomic_file(path, "w") as file:
        file.write("[")
        for sample in samples:
            try:
                record = _record(sample, copy is not None)
            except Rejection as rejection:
                left_out(sample, rejection)
                continue
            if copy:
                copy(sample, record["img_url"])
            file.write(",\n" if kept else "\n")
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False))
            kept += 1
        file.write("\n]\n")
    return kept


def _record(sample: Sample, copied: bool) -> dict[str, Any]:
    if len(sample.media) != 1 or sample.media[0].kind != "image":
        kinds = ", ".join(medium.kind for medium in sample.media)
        raise Rejection("not_one_image", f"its media: {kinds or 'none'}")
    if not sample.boxes:
        raise Rejection("no_elements", "the sample has no boxes")
    (medium,) = sample.media
    url = medium.path.removeprefix("images/")
    if place := place_of(medium.path):
        if not copied:
            raise Rejection("in_parquet", f"{medium.path} is no file: have the images copied")
        url = place.file.rpartition(".")[0] + medium.path.removeprefix(place.file).replace("#", "/")
    size = medium.width, medium.height
    elements = []
    for index, box in enumerate(sample.boxes):
        corners = to_unit(box.xyxy, sample.frame, *size)
        point = [(corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2]
        if len(sample.points) == len(sample.boxes):
            point = to_unit(sample.points[index].xy, sample.frame, *size)
        elements.append(
            {"instruction": box.label, "bbox": corners, "data_type": box.kind, "point": point}
        )
    return {
        **text_fields(sample.meta, META_KEYS),
        "img_url": url,
        "img_size": list(size),
        "element": elements,
        "element_size": len(elements),
    }


def _copy(raw: Path, images: Path, sample: Sample, url: str) -> None:
    """Copy a sample's image to ``url`` below ``images``, unless it is there already."""
    source, target = raw / sample.media[0].path, images / url
    sha256 = sample.media[0].sha256
    if target.is_file():
        if sha256_file(target) != sha256:
            raise DataError(f"{target} is another picture than {source}; choose an empty folder")
        return
    try:
        data = read_medium(source)
    except (FileNotFoundError, NotADirectoryError):
        data = b""
    if sha256_bytes(data) != sha256:
        raise DataError(f"{source} changed since it was converted; convert it again")
    with atomic_file(target) as file:
        file.write(data)
