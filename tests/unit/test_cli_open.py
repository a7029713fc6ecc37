"""`shardline open` and `shardline mlflow`: where to look, or what is in the way."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from data_tree import BENCHMARK
from results_tree import ResultsTree, options
from shardline.cli.main import main
from shardline.errors import UserError
from shardline.files import read_json, write_json
from shardline.reporting.artefacts import Artefacts
from shardline.reporting.summary import summarise


@pytest.fixture
def report(tmp_path, monkeypatch) -> Path:
    """A finished recipe's summary, in the current directory."""
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    ResultsTree(tmp_path / "results", screens=4, steps=5).write()
    folder = tmp_path / "results/reports/demo"
    write_json(folder / "summary.json", summarise(options(), Artefacts(tmp_path / "results")))
    (folder / "index.html").write_text("<!doctype html>")
    return folder


def test_open_says_where_and_what(report, capsys):
    main(["open", "demo"])
    text = capsys.readouterr().out
    assert "results/reports/demo/index.html" in text
    assert (report / "index.html").as_uri() in text
    assert "shardline mlflow" in text
    scores = read_json(report / "summary.json")["scores"][BENCHMARK]
    for model in ("base", "sft", "adapt"):
        accuracy = f"{100 * scores[model]['accuracy']:.1f} %"
        assert any(model in line and accuracy in line for line in text.splitlines())


def test_open_as_json_has_the_figures_of_the_summary(report, capsys):
    main(["open", "demo", "--json"])
    assert (
        json.loads(capsys.readouterr().out)["scores"]
        == read_json(report / "summary.json")["scores"]
    )


def test_a_failed_gate_is_said(report, capsys):
    summary = read_json(report / "summary.json")
    summary["gates"][0]["passed"] = False
    write_json(report / "summary.json", summary)
    main(["open", "demo"])
    assert f"gate failed: {summary['gates'][0]['name']}" in capsys.readouterr().out


def test_a_report_that_is_not_there_names_those_that_are(report):
    with pytest.raises(UserError, match=r"reports are there for: demo; .*build=\[other\]"):
        main(["open", "other"])


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that would have replaced the process."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, words, _: commands.append(words))
    return commands


def test_mlflow_is_started_on_the_configs_store(small_project, started, capsys):
    Path("results/mlflow.db").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    main(["mlflow", "--port", str(port)])
    (words,) = started
    assert words[:4] == [sys.executable, "-m", "mlflow", "ui"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--port") + 1] == str(port)
    assert "sqlite:///results/mlflow.db" in words
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out


def test_a_taken_port_is_named_with_a_free_one(small_project, started):
    Path("results/mlflow.db").touch()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .* is taken.*--port \d+"):
            main(["mlflow", "--port", str(port)])
    assert started == []


def test_no_store_and_servers_are_explained(small_project, started, monkeypatch):
    with pytest.raises(UserError, match="nothing was tracked yet"):
        main(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:word@mlflow.example")
    with pytest.raises(UserError, match="on a server") as error:
        main(["mlflow"])
    assert "word" not in str(error.value)
    assert started == []


@pytest.mark.parametrize("port", ["0", "70000", "-1"])
def test_a_port_that_is_none(small_project, port):
    with pytest.raises(UserError, match="from 1 to 65535"):
        main(["mlflow", f"--port={port}"])
