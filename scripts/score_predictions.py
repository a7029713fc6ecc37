"""Score a model's answers to a benchmark.

Called by the rule score_predictions, once a model and benchmark:

    python scripts/score_predictions.py \\
        --options '{"metric": "point_in_box", "task": "grounding", "tokens": {...}}' \\
        --predictions results/evals/demo/sft/screens_test/predictions.jsonl \\
        --converted results/converted/screens_test/manifest.json \\
        --scores results/evals/demo/sft/screens_test/scores.json \\
        --items results/evals/demo/sft/screens_test/items.jsonl

in:  the answers, the benchmark's samples
out: scores.json   the metric's figures; rows of the benchmark that could not be converted
     items.jsonl   a line an item: hit or not, the point, the target
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import registry
from shardline.benchmark import items, read_benchmark
from shardline.errors import run_program
from shardline.files import read_json, read_jsonl, write_json, write_jsonl


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--predictions", type=Path, required=True, help="answers to score")
    parser.add_argument("--converted", type=Path, required=True, help="the benchmark's manifest")
    parser.add_argument("--scores", type=Path, required=True, help="figures to write")
    parser.add_argument("--items", type=Path, required=True, help="verdicts to write")
    arguments = parser.parse_args(argv)
    options = arguments.options
    samples = read_benchmark(arguments.converted)
    manifest = read_json(arguments.converted)
    metric = registry.load("metrics", options["metric"], options.get("plugins", ()))
    scores, verdicts = metric.score(read_jsonl(arguments.predictions), samples, options)
    write_jsonl(arguments.items, verdicts)
    write_json(
        arguments.scores,
        {
            **scores,
            "stage": "score",
            "metric": options["metric"],
            "model": arguments.predictions.parent.parent.name,
            "benchmark": manifest["dataset"],
            "items": sum(1 for _ in items(samples)),
            "missing": manifest["rows"]["rejected"],
        },
    )


if __name__ == "__main__":
    run_program(main)
