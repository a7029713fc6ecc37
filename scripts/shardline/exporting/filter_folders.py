"""Images sorted into two folders by their score, as VaseVQA-3D's scripts leave them.

Its CLIP filter writes ``accepted/``, ``rejected/`` and ``filtering_report.json``; its classifier
``images3/1`` and ``images3/0``, here with the same report beside them. Names of fields are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardline.exporting.image_folders import check_own, copy_images, flat_names, install, staged
from shardline.files import write_json
from shardline.samples import Sample

Json = dict[str, Any]
REPORT = "filtering_report.json"
CLIP_FOLDERS = ("accepted", "rejected")
CLASS_FOLDERS = ("images3/1", "images3/0")


def export_filter_folders(
    *,
    samples: Iterable[Sample],
    scores: Mapping[str, Mapping[str, float]],
    threshold: float | None,
    raw: Path,
    output: Path,
    folders: tuple[str, str] = CLIP_FOLDERS,
    seconds: float = 0.0,
) -> Json:
    """Copy every image into the folder of the good or of the bad ones, and write the report.

    An image is good if its score is at least the threshold. A file keeps its base name; of several
    with one base name each keeps its folder too. What an earlier export left there goes.

    Args:
        samples: what the filter was given.
        scores: of their images, by sha256; an image without one is not written.
        threshold: None takes all images for good.
        raw: folder of their dataset's raw data.
        output: where the export goes.
        folders: names of the two folders, the good one first.
        seconds: what the report states as the processing time.

    Returns:
        The report.

    Raises:
        DataError: an image changed since conversion, or a folder is no earlier export's.
    """
    known = {
        medium.path: medium.sha256
        for sample in samples
        for medium in sample.media
        if medium.sha256 in scores
    }
    names = flat_names(known)
    places = [output / folder for folder in folders]
    check_own(places, output / REPORT)
    results = [
        _result(name, scores[known[path]], threshold) for path, name in sorted(names.items())
    ]
    good = {result["filename"] for result in results if result["accepted"]}
    report = {
        "input_directory": str(raw),
        "output_directory": str(output),
        "total_images": len(results),
        "accepted_images": len(good),
        "rejected_images": len(results) - len(good),
        "acceptance_rate": len(good) / len(results) if results else 0.0,
        "threshold": threshold,
        "processing_time_seconds": seconds,
        "results": results,
    }
    with staged(places[0]) as accepted, staged(places[1]) as rejected:
        for folder, is_good in ((accepted, True), (rejected, False)):
            chosen = {path: name for path, name in names.items() if (name in good) is is_good}
            copy_images(raw, folder, chosen, known)
        write_json(output / REPORT, report)  # before the folders: it shows whose they are
        for staging, place in zip((accepted, rejected), places, strict=True):
            install(staging, place)
    return report


def _result(name: str, scores: Mapping[str, float], threshold: float | None) -> Json:
    result = {"filename": name, "quality_score": scores["score"]}
    if "high" in scores and "low" in scores:
        result["high_quality_similarity"] = scores["high"]
        result["low_quality_similarity"] = scores["low"]
    return result | {"accepted": threshold is None or scores["score"] >= threshold}
