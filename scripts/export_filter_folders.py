"""Write the images that a filter judged as the folders and reports of VaseVQA-3D's scripts.

No rule calls it; it is for going on with those scripts, or for looking through the images:

    python scripts/export_filter_folders.py --dataset vases --variant clip_quality-1a2b3c4d \\
        --filter clip_quality --output exported/vases

in:  results/filtered/<dataset>/<variant>/decisions.json, the dataset's converted samples, raw files
     and scores
out: of a filter by score      accepted/, rejected/, filtering_report.json
     of quality_classifier     images3/1, images3/0, filtering_report.json
     of best_view              best_views/, best_views_report.json, filtering_stats.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import ConfigError, run_program
from shardline.exporting.best_views import export_best_views
from shardline.exporting.filter_folders import CLASS_FOLDERS, CLIP_FOLDERS, export_filter_folders
from shardline.files import read_json
from shardline.stored_decisions import judged_by, read_decided, scores_of, threshold_of


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="name of the dataset")
    parser.add_argument("--variant", required=True, help="name of the filter chain")
    parser.add_argument("--filter", required=True, help="the filter whose images are exported")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of all results"
    )
    arguments = parser.parse_args(argv)
    results, dataset = arguments.results, arguments.dataset
    decisions = results / "filtered" / dataset / arguments.variant / "decisions.json"
    filters = read_json(decisions)["filters"]
    by_score = [entry["name"] for entry in filters if entry.get("scores")]
    if arguments.filter not in by_score:
        raise ConfigError(
            f"--filter {arguments.filter}: {decisions} has these filters that judge by scores: "
            f"{', '.join(by_score) or 'none'}"
        )
    position = [entry["name"] for entry in filters].index(arguments.filter)
    entry = filters[position]
    decided = read_decided(decisions, results / "converted" / dataset)
    options = entry["options"]
    shared = {
        "samples": [sample for sample, line in decided if judged_by(position, line, filters)],
        "scores": scores_of(entry, dataset, results),
        "raw": results / "raw" / dataset,
        "output": arguments.output,
    }
    if arguments.filter == "best_view":
        export_best_views(**shared, scorer=options["scorer"], score=options["score"])
    else:
        folders = CLASS_FOLDERS if arguments.filter == "quality_classifier" else CLIP_FOLDERS
        export_filter_folders(**shared, threshold=threshold_of(entry), folders=folders)


if __name__ == "__main__":
    run_program(main)
