"""The few calls to MLflow that delivering needs, each safe to repeat."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shardline.errors import UserError
from shardline.redact import redact_text
from shardline.tracking.place import is_server

METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
LONGEST_PARAM = 6000
DIGEST_DIGITS = 32  # MLflow keeps at most 36

Point = tuple[str, float, int, int]
"""One value of a metric: name, value, time in ms since the epoch, step."""


class NotDelivered(UserError):
    """MLflow cannot be reached or refused; what is missing is delivered by the next try."""


def connect(uri: str) -> Any:
    """An ``MlflowClient`` for a store, with MLflow's telemetry, chatter and long retries off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when a store is away, full or refuses."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError)


def explain(error: Exception) -> str:
    """One short line about an error, without addresses' passwords."""
    lines = redact_text(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


class Store:
    """One experiment of an MLflow store."""

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        """Open the store; where it is local, a new experiment's artefacts go to ``artifacts``."""
        self.client = connect(uri)
        self.server = is_server(uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            location = None if self.server else artifacts.absolute().as_uri()
            kind = {"mlflow.experimentKind": "custom_model_development"}
            number = self.client.create_experiment(experiment, location, tags=kind)
            found = self.client.get_experiment(number)
        elif found.lifecycle_stage != "active":
            raise NotDelivered(
                f"the experiment {experiment!r} was deleted: restore it (`mlflow experiments "
                f"restore -x {found.experiment_id}`) or set another `mlflow.experiment`"
            )
        self.experiment_id = found.experiment_id
        self.identity = f"{found.experiment_id}/{found.creation_time}"

    def find_runs(self, tags: Mapping[str, str]) -> list[Any]:
        """Active runs with all these tags, the latest start first."""
        words = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        return self.client.search_runs(
            [self.experiment_id], " and ".join(words), order_by=["attributes.start_time DESC"]
        )

    def create_run(self, name: str, tags: Mapping[str, str], started: float) -> str:
        """A new run's id; ``started`` in seconds since the epoch."""
        run = self.client.create_run(
            self.experiment_id, start_time=int(started * 1000), tags=dict(tags), run_name=name
        )
        return run.info.run_id

    def read_run(self, run_id: str) -> Any | None:
        """A run, or None where it does not exist any more."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def is_active(self, run_id: str) -> bool:
        """Whether a run exists and was not deleted."""
        run = self.read_run(run_id)
        return run is not None and run.info.lifecycle_stage == "active"

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """At most `METRICS_A_BATCH` values in one request, which the store takes whole or not."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters, which may be there already with the same values."""
        from mlflow.entities import Param

        rows = [Param(clean_name(name), text_of(value)) for name, value in params.items()]
        for start in range(0, len(rows), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=rows[start : start + PARAMS_A_BATCH])

    def log_datasets(self, run_id: str, locks: Sequence[Mapping[str, Any]], context: str) -> None:
        """Locked datasets as inputs of a run; the digest is that of the list of their files."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=lock["name"],
                    digest=lock["sha256"][:DIGEST_DIGITS],
                    source_type=urlsplit(lock["source"]).scheme or "local",
                    source=json.dumps(dataset_source(lock)),
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for lock in locks
        ]
        if inputs:
            self.client.log_inputs(run_id, inputs)

    def set_scores(
        self, run_id: str, scores: Mapping[str, float], known: Mapping[str, float]
    ) -> None:
        """Metrics without a step, only those whose value is not ``known`` to be there."""
        now = int(time.time() * 1000)
        points = [
            (name, float(value), now, 0)
            for name, value in scores.items()
            if known.get(name) != float(value)
        ]
        if points:
            self.log_points(run_id, points)


def dataset_source(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Where a locked dataset comes from, as plain data."""
    source = {"uri": redact_text(str(lock["source"])), "revision": lock.get("revision")}
    return source | {"sha256": lock["sha256"]}


def clean_name(name: str) -> str:
    """A name with only the characters that MLflow allows in names."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def text_of(value: Any) -> str:
    """A parameter as text, shortened to what MLflow keeps."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 1] + "…"


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names; lists stay whole."""
    if not isinstance(value, dict) or not value:
        return {name: value} if name else {}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{name}.{key}" if name else str(key))
    return flat
