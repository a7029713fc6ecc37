"""Tracking without MLflow: journals, what is pending, one deliverer, a store that is away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import deliver_runs
from results_tree import ResultsTree, journal_rows
from shardline.errors import UserError
from shardline.files import canonical_json
from shardline.tracking.follow import follow, process_start
from shardline.tracking.interface import open_command, port_is_free
from shardline.tracking.observed import Journal, Training, trainings, watched_files
from shardline.tracking.place import identity, sqlite_file, tracking_uri, unreachable
from shardline.tracking.state import (
    load_state,
    new_state,
    only_deliverer,
    pending,
    save_state,
    state_file,
)
from shardline.tracking.store import flatten

SCRIPTS = Path(deliver_runs.__file__).parent


def lines(rows: list[dict]) -> str:
    return "".join(canonical_json(row) + "\n" for row in rows)


@pytest.fixture
def tree(tmp_path: Path) -> ResultsTree:
    """A recipe that has only begun to train."""
    tree = ResultsTree(tmp_path / "results", steps=20)
    tree.write_training("sft", key="aaaa")
    return tree


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_journal_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    assert list(journal.new_rows()) == []
    rows = journal_rows(6, 1e-3, 100.0)
    path.write_text(lines(rows[:2]) + lines(rows[2:3])[:20])
    assert list(journal.new_rows()) == rows[:2]
    path.write_text(lines(rows[:5]))
    assert list(journal.new_rows()) == rows[2:5]
    assert list(journal.new_rows()) == []
    assert (journal.first_time(), journal.last_time) == (100.5, 102.5)


def test_journal_is_read_again_after_a_resume_cut_it_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    first = journal_rows(8, 1e-3, 100.0)
    path.write_text(lines(first))
    list(journal.new_rows())
    again = first[:4] + journal_rows(10, 1e-3, 900.0)[4:]
    path.write_text(lines(again))
    assert path.stat().st_size > len(lines(first))
    assert list(journal.new_rows()) == again


def test_trainings_are_oldest_first_and_know_only_their_own_result(tree: ResultsTree) -> None:
    tree.write_training("sft", key="0000", start=1.6e9)
    tree.write_result("sft", key="aaaa", kind="lora")
    found = trainings(tree.results, {})
    assert [training.key for training in found] == ["0000", "aaaa"]
    assert found[0].result() is None
    assert found[0].export("adapter") is None
    assert found[1].result()["key"] == "aaaa"
    assert found[1].export("adapter")["kind"] == "adapter"
    tree.write_result("sft", key="aaaa", kind="full")
    assert Training(tree.results, "demo", "sft", "aaaa").export("adapter") is None


def test_nothing_is_pending_where_nothing_was_trained(tmp_path: Path) -> None:
    assert not pending(tmp_path / "results", "http://127.0.0.1:9", "shardline")


def test_pending_until_delivered_and_again_after_any_change(tree: ResultsTree) -> None:
    uri, results = "http://127.0.0.1:9", tree.results
    assert pending(results, uri, "shardline")
    state = new_state("shardline") | {"delivered": watched_files(results)}
    save_state(results, uri, state)
    assert not pending(results, uri, "shardline")
    assert pending(results, uri, "another experiment")
    assert pending(results, "http://127.0.0.1:10", "shardline")
    for change in (
        lambda: tree.write_result("sft", key="aaaa"),
        lambda: tree.json("reports/demo/summary.json", {}),
        lambda: tree.write_training("sft", key="bbbb"),
    ):
        change()
        assert pending(results, uri, "shardline")
        save_state(results, uri, state | {"delivered": watched_files(results)})
        assert not pending(results, uri, "shardline")


def test_a_deleted_sqlite_store_makes_everything_pending(tree: ResultsTree) -> None:
    uri = f"sqlite:///{tree.results / 'mlflow.db'}"
    save_state(
        tree.results, uri, new_state("shardline") | {"delivered": watched_files(tree.results)}
    )
    assert pending(tree.results, uri, "shardline")
    (tree.results / "mlflow.db").touch()
    assert not pending(tree.results, uri, "shardline")


def test_checking_for_news_imports_no_mlflow(tree: ResultsTree) -> None:
    code = (
        "import sys, pathlib; from shardline.tracking.state import pending; import deliver_runs;"
        "pending(pathlib.Path(sys.argv[1]), 'http://127.0.0.1:9', 'x');"
        "heavy = {'mlflow', 'torch', 'numpy', 'requests', 'sqlalchemy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tree.results)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_identity_and_state_hold_no_password(tmp_path: Path) -> None:
    assert identity("https://me:pw@host/x") == identity("https://host/x")
    save_state(tmp_path, "https://me:pw@host/x", new_state("shardline"))
    path = state_file(tmp_path, "https://me:pw@host/x")
    assert "pw" not in path.read_text() + str(path.relative_to(tmp_path))
    assert load_state(tmp_path, "https://host/x", "shardline") == new_state("shardline")


def test_environment_wins_over_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == "sqlite:///results/mlflow.db"
    assert tracking_uri("http://config") == "http://config"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri("http://config") == "http://environment"


def test_only_one_process_delivers(tree: ResultsTree, capsys: pytest.CaptureFixture[str]) -> None:
    with only_deliverer(tree.results) as alone:
        assert alone
        deliver_runs.main([f"--results={tree.results}", "--uri=http://127.0.0.1:9"])
        assert capsys.readouterr().out == "mlflow: another process delivers already\n"
    with only_deliverer(tree.results) as alone:
        assert alone


def test_a_server_that_is_away_is_said_in_one_line(
    tree: ResultsTree, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://me:secret@127.0.0.1:{closed_port}"
    deliver_runs.main([f"--results={tree.results}", f"--uri={uri}"])
    said = capsys.readouterr().out
    assert said.startswith("mlflow: delivery pending: no connection to the tracking server")
    assert said.count("\n") == 1
    assert "secret" not in said
    assert pending(tree.results, uri, "shardline")


def test_following_ends_with_its_controller_even_if_the_server_stays_away(
    tree: ResultsTree, closed_port: int
) -> None:
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"]) as controller:
        done = follow(
            tree.results,
            f"http://127.0.0.1:{closed_port}",
            "shardline",
            controller=controller.pid,
            say=said.append,
            poll=0.1,
        )
    assert not done
    assert len(said) == 1


def test_a_zombie_and_a_reused_number_are_no_controller() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None
    child.wait()
    assert process_start(child.pid) is None


def test_reachability_of_addresses(closed_port: int) -> None:
    assert unreachable("sqlite:///x.db") is None
    assert "no connection" in unreachable(f"http://127.0.0.1:{closed_port}")
    assert "no connection" in unreachable("http://127.0.0.1:99999")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert unreachable(f"http://127.0.0.1:{server.getsockname()[1]}") is None


def test_sqlite_paths() -> None:
    assert sqlite_file("sqlite:///results/mlflow.db") == Path("results/mlflow.db")
    assert sqlite_file("sqlite:////abs/mlflow.db?timeout=5") == Path("/abs/mlflow.db")
    assert sqlite_file("postgresql://host/db") is None


def test_open_command_names_an_occupied_port(tmp_path: Path, closed_port: int) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(UserError, match="nothing was tracked yet"):
        open_command(uri)
    (tmp_path / "mlflow.db").touch()
    command = open_command(uri, closed_port)
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert command[command.index("--port") + 1] == str(closed_port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        message = rf"port {port} of 127\.0\.0\.1 is taken.*--port {port + 1}"
        with pytest.raises(UserError, match=message):
            open_command(uri, port)
    with pytest.raises(UserError, match="on a server"):
        open_command("https://tracking.example")


def test_flatten() -> None:
    nested = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], "g": {}}
    assert flatten(nested) == {"a.b": 1, "a.c.d": None, "e": [1, {"f": 2}], "g": {}}
