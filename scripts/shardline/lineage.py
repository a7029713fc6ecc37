"""From a training step, a model or an answer back to the raw files and their licences.

Every answer is a list of samples, each with its row, its media and the raw file they are, checked
against the lock; and of sources, each with revision, licence and the hash of its file list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shardline import locks, paths
from shardline.embedded import file_of
from shardline.errors import DataError, UserError
from shardline.files import read_json, read_jsonl, sha256_file
from shardline.plan_file import read_plan, samples_of_step
from shardline.samples import Sample
from shardline.variants import source_id

Json = dict[str, Any]
_SHARD = re.compile(r"shard-(?P<number>\d{5})-")


class Lineage:
    """Traces through one project's results; locks that were read are kept."""

    def __init__(self, project: Any, results: Path) -> None:
        """Args:
        project: a `shardline.config.project.Project`, for the licences that its config states.
        """
        self.project = project
        self.results = results
        self._locked: dict[str, dict[str, locks.LockedFile]] = {}

    def of_step(self, recipe: str, stage: str, step: int) -> Json:
        """The samples of one training step, pack by pack.

        Args:
            step: counted from 1, as the journal, the log and MLflow do.

        Raises:
            DataError: no such step, or a file on the way is not the one that was used.
        """
        plan = Path(paths.plan(recipe, stage))
        packs = read_plan(plan, plan.with_suffix(".parquet"))
        if not 1 <= step <= packs.steps:
            raise UserError(f"{plan} has steps 1 to {packs.steps}, not {step}")
        places = samples_of_step(packs, step - 1, self.results)
        by_shard: dict[str, set[str]] = {}
        for place in places:
            by_shard.setdefault(place["shard"], set()).add(place["id"])
        samples: dict[str, Sample] = {}
        for shard, ids in by_shard.items():
            samples |= self.planned_samples(shard, ids)
        rows = [
            {"pack": place["pack"], "tokens": place["length"], "shard": place["shard"]}
            | self.trace(samples[place["id"]])
            for place in places
        ]
        return {
            "plan": str(plan),
            "step": step,
            "steps": packs.steps,
            "samples": rows,
            "sources": self.sources(place["dataset"] for place in places),
        }

    def of_model(self, recipe: str, stage: str) -> Json:
        """What went into a stage's weights, and into what it started from, stage by stage.

        Raises:
            DataError: the stage was not trained yet, or its plan is not the one it was trained on.
        """
        result_file = Path(paths.result(recipe, stage))
        result = read_json(result_file)
        plan_file = Path(paths.plan(recipe, stage))
        if sha256_file(plan_file) != result["plan_sha256"]:
            raise DataError(
                f"{plan_file} is not the plan that {result_file} was trained with: the config has "
                "changed since; run snakemake to train again, or restore the config"
            )
        plan = read_json(plan_file)
        features = result.get("features_sha256", {})
        for manifest, sha256 in features.items():
            if not Path(manifest).is_file() or sha256_file(Path(manifest)) != sha256:
                raise DataError(
                    f"{manifest}: not the features that {result_file} was trained with: run "
                    "snakemake to train again, or restore the config"
                )
        datasets = sorted({shard["path"].split("/")[1] for shard in plan["shards"]})
        kind, name = self.project.initial_model(recipe, stage)
        start: Json = {"kind": kind, "name": name}
        if kind == "stage":
            start |= self.of_model(recipe, name)
        else:
            start |= self._base(recipe, name)
        return {
            "recipe": recipe,
            "stage": stage,
            "result": str(result_file),
            "weights": result["weights"],
            "steps": result["steps"],
            "plan": str(plan_file),
            "samples_drawn": plan["samples"],
            "samples_different": plan["distinct_samples"],
            "token_shards": [
                {"path": shard["path"], "sha256": shard["sha256"]} for shard in plan["shards"]
            ],
            "features": [
                {
                    "path": manifest,
                    "sha256": sha256,
                    "devices": sorted({shard["device"] for shard in read_json(manifest)["shards"]}),
                }
                for manifest, sha256 in features.items()
            ],
            "sources": self.sources(datasets),
            "initialised_from": start,
        }

    def of_item(self, recipe: str, benchmark: str, item: str) -> Json:
        """A benchmark item: its sample, raw file and source, and what each model answered.

        Args:
            item: ``<sample id>#<box index>``, as in ``items.jsonl``.

        Raises:
            UserError: there is no such item, or nothing was evaluated.
        """
        name, _, index = item.rpartition("#")
        samples = self._find(Path(paths.converted(benchmark)), None, {name})
        if name not in samples or not index.isdigit() or int(index) >= len(samples[name].boxes):
            raise UserError(
                f"{benchmark} has no item {item!r}; items are listed in "
                f"{self.results}/evals/{recipe}/<model>/{benchmark}/items.jsonl"
            )
        sample = samples[name]
        answers = []
        for model in self.project.models(recipe):
            file = Path(paths.scores(recipe, model, benchmark)).with_name("items.jsonl")
            rows = read_jsonl(file) if file.is_file() else ()
            if row := next((row for row in rows if row["item"] == item), None):
                fields = ("hit", "point", "answer", "question")
                answers.append({"model": model} | {key: row[key] for key in fields})
        box = sample.boxes[int(index)]
        return {
            "item": item,
            "target": {"label": box.label, "box": box.xyxy, "frame": sample.frame},
            "answers": answers,
            "samples": [self.trace(sample)],
            "sources": self.sources([benchmark]),
        }

    def trace(self, sample: Sample) -> Json:
        """A sample's source row and its media as raw files with their locked hashes.

        Raises:
            DataError: a medium is not the file that the lock lists.
        """
        locked = self._files(sample.dataset)
        row = sample.id.removeprefix(f"{sample.dataset}:")
        annotation = row.rpartition("#")[0]
        files = []
        for path in [annotation, *(file_of(medium.path) for medium in sample.media)]:
            if path not in locked:
                raise DataError(
                    f"{sample.id}: {path} is not in {paths.lock(sample.dataset)}: the data was "
                    "fetched again since; run snakemake"
                )
            entry = locked[path]
            raw = f"{paths.raw(sample.dataset)}/{path}"
            files.append({"path": raw, "bytes": entry.bytes, "sha256": entry.sha256})
        for medium, file in zip(sample.media, files[1:], strict=True):
            if file_of(medium.path) == medium.path and medium.sha256 != file["sha256"]:
                raise DataError(
                    f"{sample.id}: it was converted from another {file['path']} (sha256 "
                    f"{medium.sha256}) than the one that is locked; run snakemake"
                )
        labels = [box.label for box in sample.boxes]
        return {
            "id": sample.id,
            "dataset": sample.dataset,
            "row": row,
            "labels": labels,
            "files": files,
        }

    def planned_samples(self, shard: str, ids: set[str]) -> dict[str, Sample]:
        """Canonical samples of a token shard by id, of a variant the one that it was made of.

        The token shard has the number of its converted shard.

        Args:
            shard: its path below ``results``.

        Raises:
            DataError: one of ``ids`` is not converted any more.
        """
        _, dataset, _, name = shard.split("/")
        manifest = Path(paths.converted(dataset))
        sources = {sample: source_id(sample) for sample in ids}
        samples = self._find(manifest, _SHARD.match(name)["number"], set(sources.values()))
        if missing := sorted(set(sources.values()) - set(samples)):
            raise DataError(f"{manifest}: has no sample {missing[0]} any more; run snakemake")
        return {sample: samples[source] for sample, source in sources.items()}

    def sources(self, datasets: Iterable[str]) -> list[Json]:
        """Where datasets come from: their locks, and the licence that the config states."""
        found = []
        for name in sorted(set(datasets)):
            lock = read_json(Path(paths.lock(name)))
            config = self.project.config.datasets.get(name)
            stated = config.licence if config else ""
            found.append(_source(name, lock, stated, paths.lock(name)))
        return found

    def _base(self, recipe: str, name: str) -> Json:
        lock = read_json(Path(paths.model_lock(name)))
        stated = self.project.config.recipes[recipe].base_licence
        return {"sources": [_source(name, lock, stated, paths.model_lock(name))]}

    def _files(self, dataset: str) -> dict[str, locks.LockedFile]:
        if dataset not in self._locked:
            self._locked[dataset] = locks.read_files(Path(paths.lock(dataset)))
        return self._locked[dataset]

    def _find(self, manifest: Path, number: str | None, ids: set[str]) -> dict[str, Sample]:
        """Samples of a converted dataset by id, looked for in one shard or in all."""
        found: dict[str, Sample] = {}
        for shard in read_json(manifest)["shards"]:
            if number is not None and shard["name"] != f"samples-{number}.jsonl.zst":
                continue
            for row in read_jsonl(manifest.parent / shard["name"]):
                if row["id"] in ids:
                    found[row["id"]] = Sample.from_json(row)
                if len(found) == len(ids):
                    return found
        return found


def _source(name: str, lock: Json, licence: str, path: str) -> Json:
    fields = ("source", "revision", "files", "bytes")
    return {
        "name": name,
        **{key: lock.get(key) for key in fields},
        "licence": licence,
        "lock": path,
        "files_sha256": lock["sha256"],
    }
