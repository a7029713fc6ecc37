"""Delivery to real MLflow stores while it, or the server, is killed: nothing is lost or doubled."""

from __future__ import annotations

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

import pytest
import tiny_project

import deliver_runs
import train_stage
from delivered import Seen, deliver, write_the_report
from results_tree import ResultsTree
from shardline.files import read_json
from shardline.tracking.state import pending, state_file
from shardline.training.journal import read_journal

PROGRAM = deliver_runs.__file__


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


def _journalled(project: tiny_project.Project, steps: int) -> bool:
    """Whether a training has finished so many steps."""
    journals = project.stage.glob("work/*/metrics.jsonl")
    return any(len(journal.read_bytes().splitlines()) >= steps for journal in journals)


def _some_steps(state: Path) -> bool:
    runs = read_json(state)["runs"] if state.is_file() else {}
    return any(record["steps"] for record in runs.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_outlives_the_server_which_gets_everything_later(
    tmp_path: Path, server: Server
) -> None:
    """The server is killed while a real training and its deliverer run.

    The training waits for the first delivery: it would be over before the deliverer has started.
    """
    project = tiny_project.build(tmp_path, steps=40)
    program = [sys.executable, train_stage.__file__, *project.training()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    deliver_all = [sys.executable, PROGRAM, f"--results={project.results}", f"--uri={server.uri}"]
    with subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL) as training:
        follower = [*deliver_all, "--follow", f"--controller={training.pid}"]
        with subprocess.Popen(follower, stdout=subprocess.PIPE, text=True) as deliverer:
            state = state_file(project.results, server.uri)
            while training.poll() is None and not _journalled(project, 3):
                time.sleep(0.01)
            training.send_signal(signal.SIGSTOP)
            while deliverer.poll() is None and not _some_steps(state):
                time.sleep(0.05)
            delivered = max(max(r["steps"].values()) for r in read_json(state)["runs"].values())
            assert training.poll() is None and 0 < delivered < 40
            server.kill()
            training.send_signal(signal.SIGCONT)
            assert training.wait() == 0
            said, _ = deliverer.communicate(timeout=240)
    assert "delivery pending" in said and "Traceback" not in said
    assert pending(project.results, server.uri, "shardline")

    server.start()
    server.wait()
    for _ in range(2):
        subprocess.run(deliver_all, check=True)
    assert not pending(project.results, server.uri, "shardline")
    seen = Seen(server.uri)
    ((key, run),) = seen.stages.items()
    journal = list(read_journal(project.stage / "work" / key))
    assert [line["step"] for line in journal] == list(range(1, 41))
    for name in journal[-1]["metrics"]:
        history = seen.client.get_metric_history(run.info.run_id, name)
        expected = [(line["step"], line["metrics"][name]) for line in journal]
        assert sorted((point.step, point.value) for point in history) == expected
    assert run.info.status == "FINISHED" and seen.count == 2
    assert run.data.tags["shardline.code"] == "c0de"
    assert {"config/run.json", "plan/s.json"} <= seen.artefacts(run)
