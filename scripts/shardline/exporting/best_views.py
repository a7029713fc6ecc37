"""The best view of each group as VaseVQA-3D's scripts leave them: a folder and two reports.

Names of files and fields are theirs (``clip_score`` whatever the scorer, which an extra field
names). Where they leave it to chance, groups are sorted and equal scores go to the lowest view
number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from statistics import fmean, pstdev
from typing import Any

from shardline.errors import DataError
from shardline.exporting.image_folders import check_own, copy_images, flat_names, install, staged
from shardline.files import write_json
from shardline.samples import Sample
from shardline.views import View, best_view, views_by_group

Json = dict[str, Any]
REPORT = "best_views_report.json"


def export_best_views(
    *,
    samples: Iterable[Sample],
    scores: Mapping[str, Mapping[str, float]],
    scorer: str,
    score: str = "score",
    raw: Path,
    output: Path,
    seconds: float = 0.0,
) -> Json:
    """Write ``best_views/``, ``best_views_report.json`` and ``filtering_stats.json``.

    A file keeps its base name in ``best_views/``; of several chosen files with one base name each
    keeps its folder too. What an earlier export left there goes.

    Args:
        samples: what the filter `best_view` was given; those without a group are passed over.
        scores: of every image in them, by sha256.
        scorer: name of what gave the scores.
        score: which of its numbers decided.
        raw: folder of their dataset's raw data.
        output: where the export goes.
        seconds: what the report states as the processing time.

    Returns:
        The report.

    Raises:
        DataError: a view of several files or of none, a file that changed since conversion, or a
            ``best_views/`` that is no earlier export's.
    """
    samples = list(samples)
    chosen = {sha256: numbers[score] for sha256, numbers in scores.items()}
    groups = dict(sorted(views_by_group(samples, chosen).items()))
    for group, views in groups.items():
        if odd := next((view for view in views if len(view.paths) != 1), None):
            raise DataError(
                f"group {group}: {odd.samples[0]} shows {len(odd.paths)} files, and best views are "
                "exported for samples of one image each"
            )
    folder = output / "best_views"
    check_own([folder], output / REPORT)
    names = flat_names(best_view(views).paths[0] for views in groups.values())
    results = [_result(group, views, names) for group, views in groups.items()]
    known = {medium.path: medium.sha256 for sample in samples for medium in sample.media}
    report = _report(results, raw, output, seconds) | {"scorer": scorer}
    with staged(folder) as staging:
        copy_images(raw, staging, names, known)
        write_json(output / "filtering_stats.json", _stats(report, groups) | {"scorer": scorer})
        write_json(output / REPORT, report)  # before the folder: it shows whose the folder is
        install(staging, folder)
    return report


def _result(group: str, views: list[View], names: dict[str, str]) -> Json:
    best = best_view(views)
    result = {
        "vase_id": group,
        "selected_view": best.number,
        "selected_filename": names[best.paths[0]],
        "clip_score": best.score,
        "total_views": len(views),
        "reason": "only_one_view" if len(views) == 1 else "best_clip_score",
    }
    if len(views) > 1:
        result["all_view_scores"] = [
            {
                "view_number": view.number,
                "filename": PurePosixPath(view.paths[0]).name,
                "clip_score": view.score,
            }
            for view in views
        ]
    return result


def _report(results: list[Json], raw: Path, output: Path, seconds: float) -> Json:
    images = sum(result["total_views"] for result in results)
    found = _scores(results)
    return {
        "input_directory": str(raw),
        "output_directory": str(output),
        "processing_time_seconds": seconds,
        "total_vases": len(results),
        "total_original_images": images,
        "total_selected_images": len(results),
        "reduction_rate": 1 - len(results) / images if images else 0.0,
        "average_clip_score": fmean(found) if found else None,
        "results": results,
    }


def _stats(report: Json, groups: Mapping[str, list[View]]) -> Json:
    found = _scores(report["results"])
    average = report["average_clip_score"]
    sizes = Counter(len(views) for views in groups.values())
    return {
        "summary": {
            "total_vases": report["total_vases"],
            "original_images": report["total_original_images"],
            "selected_images": report["total_selected_images"],
            "reduction_rate": f"{report['reduction_rate']:.1%}",
            "average_clip_score": None if average is None else f"{average:.4f}",
            "processing_time_minutes": f"{report['processing_time_seconds'] / 60:.1f}",
        },
        "view_distribution": {str(views): count for views, count in sorted(sizes.items())},
        "clip_score_stats": {
            "min": min(found, default=None),
            "max": max(found, default=None),
            "mean": average,
            "std": pstdev(found) if found else None,
        },
    }


def _scores(results: list[Json]) -> list[float]:
    return [result["clip_score"] for result in results if result["clip_score"] is not None]
