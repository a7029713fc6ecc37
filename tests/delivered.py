"""What MLflow stores hold, and delivering to them."""

from __future__ import annotations

import json
from typing import Any

import results_tree
import write_report
from results_tree import ResultsTree
from shardline.tracking.follow import deliver_once

METRICS = ("loss", "lr/llm", "grad_norm")


def write_the_report(tree: ResultsTree, options: dict | None = None) -> None:
    folder = tree.results / "reports" / "demo"
    write_report.main(
        [
            f"--options={json.dumps(options or results_tree.options())}",
            f"--results={tree.results}",
            f"--output={folder / 'index.html'}",
            f"--summary={folder / 'summary.json'}",
            f"--card={folder / 'MODEL_CARD.md'}",
        ]
    )


def deliver(tree: ResultsTree, uri: str) -> None:
    said: list[str] = []
    assert deliver_once(tree.results, uri, "shardline", said.append), said


class Seen:
    """What a store holds, read by its own client."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri, registry_uri=uri)
        self.experiment = self.client.get_experiment_by_name("shardline")
        runs = self.client.search_runs([self.experiment.experiment_id], max_results=500)
        self.parents = [run for run in runs if run.data.tags["shardline.kind"] == "recipe"]
        self.stages = {
            run.data.tags["shardline.key"]: run
            for run in runs
            if run.data.tags["shardline.kind"] == "stage"
        }
        self.count = len(runs)

    def steps(self, run: Any, metric: str) -> list[int]:
        return [m.step for m in self.client.get_metric_history(run.info.run_id, metric)]

    def artefacts(self, run: Any, folder: str | None = None) -> set[str]:
        found = self.client.list_artifacts(run.info.run_id, folder)
        files = {item.path for item in found if not item.is_dir}
        return files.union(*(self.artefacts(run, item.path) for item in found if item.is_dir))

    def check_exactly_once(self, steps: int, keys: set[str]) -> None:
        assert len(self.parents) == 1
        assert set(self.stages) == keys
        assert self.count == 1 + len(keys)
        for run in self.stages.values():
            for metric in METRICS:
                assert sorted(self.steps(run, metric)) == list(range(1, steps + 1))
        for run in [*self.parents, *self.stages.values()]:
            for name in run.data.metrics:
                if name.startswith("score/"):
                    assert len(self.steps(run, name)) == 1
