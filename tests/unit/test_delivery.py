"""Delivery to real MLflow stores: complete, nothing twice, whatever was killed or lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deliver_runs
import results_tree
import write_report
from results_tree import BENCHMARK, TRAIN, ResultsTree, journal_rows
from shardline.files import canonical_json, read_json, sha256_file
from shardline.tracking import delivery as delivery_module
from shardline.tracking.follow import deliver_once, follow
from shardline.tracking.state import pending, state_file

PROGRAM = deliver_runs.__file__
METRICS = ("loss", "learning_rate", "grad_norm")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's tables, made once, since making them takes seconds."""
    from shardline.tracking.store import connect

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tree(tmp_path: Path) -> ResultsTree:
    """A finished recipe without its report."""
    return ResultsTree(tmp_path / "results", screens=4, steps=40).write()


@pytest.fixture
def uri(tree: ResultsTree, empty_database: Path) -> str:
    """A new local store beside the results."""
    shutil.copy(empty_database, tree.results / "mlflow.db")
    return f"sqlite:///{tree.results / 'mlflow.db'}"


def write_the_report(tree: ResultsTree) -> None:
    folder = tree.results / "reports" / "demo"
    write_report.main(
        [
            f"--options={json.dumps(results_tree.options())}",
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


def test_a_recipe_becomes_one_parent_with_a_run_a_stage(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    (parent,) = seen.parents
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    summary = read_json(tree.results / "reports/demo/summary.json")
    scores = summary["scores"][BENCHMARK]
    for model in ("base", "sft", "adapt"):
        for field in ("accuracy", "low", "high", "n"):
            assert parent.data.metrics[f"score/{BENCHMARK}/{model}/{field}"] == scores[model][field]
    assert seen.artefacts(parent) == {
        "report/index.html",
        "report/summary.json",
        "report/MODEL_CARD.md",
        "config/recipe.yaml",
    }
    run = seen.stages["adapt0000"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.start_time == int(1.7e12 + 500)
    assert run.info.end_time == int(1.7e12 + 500 * 40)
    assert run.data.metrics[f"score/{BENCHMARK}/accuracy"] == scores["adapt"]["accuracy"]
    assert run.data.params["tune.llm.lr"] == "0.004"
    assert run.data.params["plan.parquet_sha256"] == tree.plan("adapt")["parquet_sha256"]
    lock = read_json(tree.results / f"raw/{TRAIN}.lock.json")
    assert run.data.params[f"lock.{TRAIN}"] == lock["sha256"]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == TRAIN
    assert lock["sha256"].startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.source)["uri"] == "generate:screens"
    assert seen.artefacts(run) == {
        "config/run.json",
        "plan/adapt.json",
        "adapter/config.json",
        "adapter/model.safetensors",
        f"scores/{BENCHMARK}/scores.json",
    }
    history = seen.client.get_metric_history(run.info.run_id, "loss")
    rows = journal_rows(40, 4e-3, 1.7e9, seed=len("adapt"))
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (row["step"], int(row["time"] * 1000), row["metrics"]["loss"]) for row in rows
    ]


def test_the_merged_model_of_the_last_stage_is_the_candidate(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    version = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert version.source == str((tree.results / "models/demo/adapt/merged").absolute())
    assert version.run_id == seen.stages["adapt0000"].info.run_id
    score = read_json(tree.results / f"evals/demo/adapt/{BENCHMARK}/scores.json")["accuracy"]
    assert version.tags[f"shardline.score.{BENCHMARK}"] == f"{score:.4f}"
    assert version.current_stage in ("None", None)


def test_nothing_is_delivered_twice(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    state = state_file(tree.results, uri)
    recorded = read_json(state)
    assert not pending(tree.results, uri, "shardline")
    for path in sorted(tree.results.rglob("*.json*")):
        os.utime(path)
    assert pending(tree.results, uri, "shardline")
    deliver(tree, uri)
    assert read_json(state)["runs"] == recorded["runs"]
    state.unlink()
    deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    assert len(seen.client.search_model_versions("name = 'shardline-demo'")) == 1


@pytest.mark.slow
def test_a_lost_store_is_filled_again(tree: ResultsTree, uri: str, empty_database: Path) -> None:
    write_the_report(tree)
    command = [sys.executable, PROGRAM, f"--results={tree.results}", f"--uri={uri}"]
    for _ in range(2):
        subprocess.run(command, check=True)
        assert not pending(tree.results, uri, "shardline")
        (tree.results / "mlflow.db").unlink()
        assert pending(tree.results, uri, "shardline")
    shutil.copy(empty_database, tree.results / "mlflow.db")
    os.utime(tree.results / "reports/demo/index.html")
    deliver(tree, uri)
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


def test_a_growing_and_cut_back_journal_keeps_each_step_once(tree: ResultsTree, uri: str) -> None:
    journal = tree.results / "checkpoints/demo/adapt/work/adapt0000/metrics.jsonl"
    rows = journal_rows(40, 4e-3, 1.7e9)
    later = rows[:10] + journal_rows(40, 4e-3, 1.8e9)[10:]
    (tree.results / "checkpoints/demo/adapt/result.json").unlink()
    for content in (rows[:7], rows[:25], later[:12], later):
        journal.write_text("".join(canonical_json(row) + "\n" for row in content))
        deliver(tree, uri)
    seen = Seen(uri)
    seen.check_exactly_once(40, {"sft0000", "adapt0000"})
    assert seen.stages["adapt0000"].info.status == "RUNNING"
    assert seen.stages["sft0000"].info.status == "FINISHED"


def test_a_changed_key_opens_a_run_that_supersedes_the_old(tree: ResultsTree, uri: str) -> None:
    write_the_report(tree)
    deliver(tree, uri)
    old_model = Seen(uri).client.get_model_version_by_alias("shardline-demo", "candidate")
    tree.write_training("adapt", key="adapt1111", kind="lora", lr=1e-3, start=1.71e9)
    deliver(tree, uri)
    seen = Seen(uri)
    old, new = seen.stages["adapt0000"], seen.stages["adapt1111"]
    assert new.data.tags["shardline.supersedes"] == old.info.run_id
    assert old.data.tags["shardline.superseded_by"] == new.info.run_id
    assert "shardline.superseded_by" not in seen.stages["sft0000"].data.tags
    assert not [name for name in new.data.metrics if name.startswith("score/")]
    assert seen.parents[0].info.status == "RUNNING"

    tree.write_result("adapt", key="adapt1111", kind="lora")
    deliver(tree, uri)
    half_way = Seen(uri).stages["adapt1111"]
    assert half_way.info.status == "FINISHED"
    assert not [name for name in half_way.data.metrics if name.startswith("score/")]

    tree.write_scores("adapt", 0.5)
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    old, new = seen.stages["adapt0000"], seen.stages["adapt1111"]
    name = f"score/{BENCHMARK}/accuracy"
    scores = read_json(tree.results / f"evals/demo/adapt/{BENCHMARK}/scores.json")
    assert new.data.metrics[name] == scores["accuracy"] != old.data.metrics[name]
    assert seen.parents[0].data.metrics[f"score/{BENCHMARK}/adapt/accuracy"] == scores["accuracy"]
    assert "adapter/model.safetensors" in seen.artefacts(old)
    new_model = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert (old_model.version, new_model.version) == (1, 2) or (
        old_model.version,
        new_model.version,
    ) == ("1", "2")
    assert new_model.tags["shardline.key"] == "adapt1111"

    tree.write_result("adapt", key="adapt0000", kind="lora")
    tree.write_scores("adapt", 0.86)
    write_the_report(tree)
    deliver(tree, uri)
    seen = Seen(uri)
    assert set(seen.stages) == {"sft0000", "adapt0000", "adapt1111"}
    back = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    assert str(back.version) == "1"


def test_a_run_that_its_user_deleted_stays_deleted(tree: ResultsTree, uri: str) -> None:
    deliver(tree, uri)
    seen = Seen(uri)
    seen.client.delete_run(seen.stages["sft0000"].info.run_id)
    write_the_report(tree)
    deliver(tree, uri)
    assert set(Seen(uri).stages) == {"adapt0000"}


def test_a_deleted_experiment_is_said(tree: ResultsTree, uri: str) -> None:
    deliver(tree, uri)
    seen = Seen(uri)
    seen.client.delete_experiment(seen.experiment.experiment_id)
    tree.write_training("sft", key="later")
    said: list[str] = []
    assert not deliver_once(tree.results, uri, "shardline", said.append)
    assert "was deleted: restore it" in said[0]


def test_a_damaged_journal_is_said_and_the_rest_is_delivered_later(
    tree: ResultsTree, uri: str
) -> None:
    journal = tree.results / "checkpoints/demo/adapt/work/adapt0000/metrics.jsonl"
    whole = journal.read_text()
    journal.write_text(whole[:200] + "]\n")
    said: list[str] = []
    assert not deliver_once(tree.results, uri, "shardline", said.append)
    assert "metrics.jsonl: not valid JSON" in said[0]
    journal.write_text(whole)
    deliver(tree, uri)
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


def test_a_large_file_is_named_and_not_uploaded(
    tree: ResultsTree, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "LARGEST_ARTEFACT", 1000)
    deliver(tree, uri)
    seen = Seen(uri)
    run = seen.stages["adapt0000"]
    assert "adapter/model.safetensors" in run.data.tags["shardline.skipped_artefacts"]
    assert "adapter/model.safetensors" not in seen.artefacts(run)


def test_artefacts_are_found_from_another_folder(
    tree: ResultsTree, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert deliver_once(Path("results"), "sqlite:///results/mlflow.db", "shardline")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    seen = Seen(uri)
    run_id = seen.stages["sft0000"].info.run_id
    folder = Path(seen.client.download_artifacts(run_id, "plan", str(elsewhere)))
    plan = tree.results / "plans/demo/sft.json"
    assert sha256_file(folder / "sft.json") == sha256_file(plan)


def test_following_delivers_while_the_controller_lives(tree: ResultsTree, uri: str) -> None:
    journal = tree.results / "checkpoints/demo/adapt/work/adapt0000/metrics.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:3]))
    grow = (
        "import sys, time\n"
        "lines = open(sys.argv[1] + '.all').read().splitlines(keepends=True)\n"
        "for line in lines[3:]:\n"
        "    time.sleep(0.02)\n"
        "    with open(sys.argv[1], 'a') as file: file.write(line)\n"
    )
    Path(f"{journal}.all").write_text("".join(whole))
    with subprocess.Popen([sys.executable, "-c", grow, str(journal)]) as controller:
        done = follow(tree.results, uri, "shardline", controller=controller.pid, poll=0.2)
    assert done
    Seen(uri).check_exactly_once(40, {"sft0000", "adapt0000"})


@pytest.mark.slow
def test_a_deliverer_killed_at_any_moment_repeats_nothing(tree: ResultsTree, uri: str) -> None:
    tree.steps = 3000
    tree.write_training("sft", key="sft0000")
    tree.write_training("adapt", key="adapt0000", kind="lora")
    write_the_report(tree)
    command = [sys.executable, PROGRAM, f"--results={tree.results}", f"--uri={uri}"]
    draw = random.Random(5)
    ends = Counter()
    for _ in range(8):
        process = subprocess.Popen(command)
        time.sleep(2 + draw.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        ends[process.wait()] += 1
    deliver(tree, uri)
    Seen(uri).check_exactly_once(3000, {"sft0000", "adapt0000"})
    assert ends[-signal.SIGKILL] > 0


class Server:
    """A real ``mlflow server`` on a free port, which can be killed and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        shutil.copy(database, folder / "server.db")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artefacts")]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )

    def wait(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.5)
        pytest.fail(f"mlflow server was not healthy after {seconds} s")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    """A healthy server with an empty store."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, empty_database)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_a_server_killed_in_the_middle_gets_everything_once(
    tree: ResultsTree, server: Server
) -> None:
    tree.steps = 4000
    tree.write_training("sft", key="sft0000")
    tree.write_training("adapt", key="adapt0000", kind="lora")
    write_the_report(tree)
    command = [sys.executable, PROGRAM, f"--results={tree.results}", f"--uri={server.uri}"]
    command.append("--follow")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as deliverer:
        try:
            state = state_file(tree.results, server.uri)
            end = time.monotonic() + 120
            while time.monotonic() < end and not _some_steps(state):
                time.sleep(0.05)
            server.kill()
            time.sleep(3)
            server.start()
            said, _ = deliverer.communicate(timeout=240)
        finally:
            deliverer.kill()
    assert deliverer.returncode == 0
    assert [line.split(":")[1] for line in said.splitlines()] == [
        " delivery pending",
        " the store takes runs again; all is delivered",
    ]
    seen = Seen(server.uri)
    seen.check_exactly_once(4000, {"sft0000", "adapt0000"})
    assert "report/index.html" in seen.artefacts(seen.parents[0])
    version = seen.client.get_model_version_by_alias("shardline-demo", "candidate")
    run_id = seen.stages["adapt0000"].info.run_id
    assert version.source == f"runs:/{run_id}/merged"
    assert "merged/model.safetensors" in seen.artefacts(seen.stages["adapt0000"])
    assert not pending(tree.results, server.uri, "shardline")


def _some_steps(state: Path) -> bool:
    runs = read_json(state)["runs"] if state.is_file() else {}
    return any(record["steps"] for record in runs.values())
