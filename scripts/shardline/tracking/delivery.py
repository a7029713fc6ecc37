"""Delivering trainings: one parent run a recipe, one nested run a stage and key.

Each step is recorded in the state right after the store took it. A step whose record was lost with
a killed process is found on the store by the run's tags and by its metrics' last steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardline.files import canonical_json, read_json, sha256_file, short_hash
from shardline.provenance import LOCK
from shardline.redact import redact
from shardline.tracking.observed import Json, Training, reports, trainings, watched_files
from shardline.tracking.publish import publish_report
from shardline.tracking.state import load_state, new_state, save_state
from shardline.tracking.store import METRICS_A_BATCH, Point, Store, flatten

LARGEST_ARTEFACT = 25_000_000  # bytes of one file
TAG = "shardline."


class Delivery:
    """Brings a store up to what lies under ``results``; keep one for as long as you follow."""

    def __init__(self, results: Path, uri: str, experiment: str) -> None:
        self.results = results
        self.uri = uri
        self.state = load_state(results, uri, experiment)
        self.store = Store(uri, experiment, results / "mlartifacts")
        if self.state["store"] != self.store.identity:
            self.state = new_state(experiment) | {"store": self.store.identity}
        self.trainings: dict[str, Training] = {}
        self.values: dict[str, dict[str, float]] = {}

    def save(self) -> None:
        """Record what was delivered."""
        save_state(self.results, self.uri, self.state)

    def deliver(self) -> None:
        """One pass over all trainings and reports; raises what MLflow raises."""
        seen = watched_files(self.results)
        for training in trainings(self.results, self.trainings):
            self.deliver_training(training)
        for recipe, summary in reports(self.results).items():
            publish_report(self, recipe, summary)
        self.state["delivered"] = seen
        self.save()

    def deliver_training(self, training: Training) -> None:
        """Run, description, metrics and end of one training."""
        record = self.stage_record(training)
        if record.get("deleted"):
            return
        if not record.get("described"):
            self.describe(training, record)
        self.tell_environment(training, record)
        self.deliver_metrics(training, record)
        if training.result() is not None:
            self.finish(training, record)

    def parent_record(self, recipe: str, started: float) -> Json:
        """The record of a recipe's parent run, made where there is none or a deleted one."""
        record = self.state["recipes"].get(recipe)
        if record is None or not self.touch(record) or record["deleted"]:
            tags = {f"{TAG}kind": "recipe", f"{TAG}recipe": recipe}
            found = self.store.find_runs(tags)
            run_id = found[0].info.run_id if found else self.store.create_run(recipe, tags, started)
            record = self.state["recipes"][recipe] = {"run_id": run_id}
            self.touch(record)
            self.save()
        return record

    def stage_record(self, training: Training) -> Json:
        """The record of a training's run, which is made when it does not exist.

        A new key of a stage gets a run that names the latest earlier one as superseded.
        """
        record = self.state["runs"].get(training.name)
        if record is None or not self.touch(record):
            parent = self.parent_record(training.recipe, training.started)
            place = {f"{TAG}recipe": training.recipe, f"{TAG}stage": training.stage}
            runs = self.store.find_runs(place)
            same = [run for run in runs if run.data.tags.get(f"{TAG}key") == training.key]
            if same:
                run_id, old = same[0].info.run_id, same[0].data.tags.get(f"{TAG}supersedes")
            else:
                start = int(training.started * 1000)
                old = next((r.info.run_id for r in runs if r.info.start_time <= start), None)
                tags = place | {f"{TAG}kind": "stage", f"{TAG}key": training.key}
                tags |= {"mlflow.parentRunId": parent["run_id"], "mlflow.source.name": "shardline"}
                tags |= {f"{TAG}supersedes": old} if old else {}
                name = f"{training.recipe}/{training.stage}"
                run_id = self.store.create_run(name, tags, training.started)
            record = {"run_id": run_id, "supersedes": old, "steps": {}}
            self.state["runs"][training.name] = record
            self.touch(record)
            self.save()
        return record

    def touch(self, record: Json) -> bool:
        """Compare a record with its run, once a connection; False if the run is gone for good.

        The run's latest steps win over the record: another process may have been killed between
        a delivery and its record. A run that a user deleted is left alone.
        """
        run_id = record["run_id"]
        if run_id in self.values:
            return True
        run = self.store.read_run(run_id)
        if run is None:
            return False
        record["deleted"] = run.info.lifecycle_stage != "active"
        self.values[run_id] = dict(run.data.metrics)
        if "steps" in record:
            for metric in run.to_proto().data.metrics:
                if not metric.key.startswith("score/"):
                    record["steps"][metric.key] = metric.step
        return True

    def describe(self, training: Training, record: Json) -> None:
        """Parameters, dataset inputs, config and plan; and the old run learns its successor."""
        run, run_id = redact(training.run), record["run_id"]
        plan = run.get("plan") or {}
        datasets = {Path(shard["path"]).parts[1] for shard in plan.get("shards", [])}
        paths = {name: self.results / "raw" / f"{name}.lock.json" for name in sorted(datasets)}
        locks = {name: read_json(path) for name, path in paths.items() if path.is_file()}
        params = flatten(run.get("options") or {}) | {"key": training.key}
        params |= {"base_sha256": run.get("base"), "code": run.get("code")}
        for name in ("parquet_sha256", "steps", "samples", "tokens", "supervised_tokens", "packs"):
            if name in plan:
                params[f"plan.{name}"] = plan[name]
        params |= {f"lock.{name}": lock["sha256"] for name, lock in locks.items()}
        self.store.log_params(run_id, {k: v for k, v in params.items() if v is not None})
        self.store.log_datasets(run_id, list(locks.values()), "training")
        if watched := run.get("validation"):
            paths = [self.results / "raw" / f"{name}.lock.json" for name in watched["datasets"]]
            known = [read_json(path) for path in paths if path.is_file()]
            self.store.log_datasets(run_id, known, "validation")
        if parent := run.get("continues"):
            self.tag_parent(training.recipe, run_id, parent)
        plan_file = self.results / "plans" / training.recipe / f"{training.stage}.json"
        if plan_file.is_file() and read_json(plan_file) == training.run.get("plan"):
            self.add_artefact(record, plan_file, "plan")
        if record["supersedes"] and self.store.is_active(record["supersedes"]):
            tag = f"{TAG}superseded_by"
            self.store.client.set_tag(record["supersedes"], tag, run_id)
        self.store.client.update_run(
            self.parent_record(training.recipe, training.started)["run_id"], status="RUNNING"
        )
        record["described"] = True
        self.save()

    def tell_environment(self, training: Training, record: Json) -> None:
        """What a training runs in, which may be another when it goes on: as tags, and its record.

        Tags name the present one; the package lock with its hash is an artefact.
        """
        self.add_artefact(record, training.folder / "run.json", "config")
        run = training.run
        found = run.get("environment") or {}
        git = found.get("git") or {}
        tags = {
            "mlflow.source.git.commit": git.get("commit"),
            "mlflow.source.git.dirty": git and str(git["dirty"]).lower(),
            f"{TAG}code": run.get("code"),
            f"{TAG}lock_sha256": found.get("lock_sha256"),
            f"{TAG}hardware": found.get("hardware"),
            f"{TAG}fitted": run.get("fitted") and canonical_json(run["fitted"]),
            **{f"{TAG}version.{name}": at for name, at in found.get("versions", {}).items()},
        }
        tags = {name: value for name, value in tags.items() if value}
        if record.get("environment") == (mark := short_hash(tags)):
            return
        for name, value in tags.items():
            self.store.client.set_tag(record["run_id"], name, value)
        if LOCK.is_file() and sha256_file(LOCK) == found.get("lock_sha256"):
            self.add_artefact(record, LOCK, "environment")
        record["environment"] = mark
        self.save()

    def tag_parent(self, recipe: str, run_id: str, parent: Json) -> None:
        """Name the run that a training extends."""
        tags = {f"{TAG}continues": f"{parent['stage']}/{parent['key']} step {parent['step']}"}
        if record := self.record_of(recipe, parent["stage"], parent["key"]):
            tags[f"{TAG}continues_run"] = record["run_id"]
        for tag, value in tags.items():
            self.store.client.set_tag(run_id, tag, value)

    def deliver_metrics(self, training: Training, record: Json) -> None:
        """The journal's values that come after each metric's last delivered step."""
        steps, batch = record["steps"], []
        for row in training.journal.new_rows():
            for name, value in row["metrics"].items():
                if row["step"] > steps.get(name, -1):
                    batch.append((name, float(value), int(row["time"] * 1000), row["step"]))
            if len(batch) >= METRICS_A_BATCH:
                self._send(record, batch[:METRICS_A_BATCH])
                batch = batch[METRICS_A_BATCH:]
        if batch:
            self._send(record, batch)

    def _send(self, record: Json, batch: list[Point]) -> None:
        self.store.log_points(record["run_id"], batch)
        for name, _, _, step in batch:
            record["steps"][name] = step
        self.save()

    def finish(self, training: Training, record: Json) -> None:
        """Close a run whose result is there, and add its sizes and its adapter."""
        if not record.get("finished"):
            result = training.result() or {}
            names = ("kind", "steps", "parameters", "trainable_parameters", "model_sha256")
            params = {f"result.{name}": result[name] for name in names if name in result}
            self.store.log_params(record["run_id"], params)
            end = training.journal.last_time or training.started
            self.store.client.set_terminated(
                record["run_id"], status="FINISHED", end_time=int(end * 1000)
            )
            record["finished"] = True
            self.save()
        adapter = training.export("adapter")
        if adapter is not None and record.get("adapter") != (mark := short_hash(adapter)):
            folder = self.results / "models" / training.recipe / training.stage / "adapter"
            for file in adapter["files"]:
                self.add_artefact(record, folder / file["name"], "adapter")
            record["adapter"] = mark
            self.save()

    def add_artefact(self, record: Json, path: Path, folder: str) -> None:
        """Upload a file unless the same bytes were; a large one is listed in a tag instead."""
        name = f"{folder}/{path.name}"
        if path.stat().st_size > LARGEST_ARTEFACT:
            skipped = record.setdefault("skipped", [])
            if name not in skipped:
                skipped.append(name)
                text = f"not uploaded, above {LARGEST_ARTEFACT} bytes: {', '.join(skipped)}"
                self.store.client.set_tag(record["run_id"], f"{TAG}skipped_artefacts", text)
                self.save()
            return
        digest = sha256_file(path)
        if record.setdefault("artefacts", {}).get(name) != digest:
            self.store.client.log_artifact(record["run_id"], str(path), folder)
            record["artefacts"][name] = digest
            self.save()

    def record_of(self, recipe: str, stage: str, key: str) -> Json | None:
        """The record of a delivered training that its user did not delete."""
        record = self.state["runs"].get(f"{recipe}/{stage}/{key}")
        return None if record is None or record.get("deleted") else record

    def known_values(self, record: Json) -> dict[str, Any]:
        """The latest values of a run's metrics on the store, as far as this process knows."""
        return self.values.setdefault(record["run_id"], {})
