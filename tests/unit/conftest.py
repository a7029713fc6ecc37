"""Fixtures shared by unit tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from results_tree import ResultsTree
from shardline import lean
from small_project import SmallProject

if TYPE_CHECKING:
    from tiny_project import Project


@pytest.fixture(autouse=True)
def _importable_again() -> Iterator[None]:
    """What a program of this test kept from being imported is importable in the next test.

    Except DeepSpeed, which no test needs: accelerate, once imported without it, stays without.
    """
    yield
    for module, name in (
        ("transformers.utils.import_utils", "is_bitsandbytes_available"),
        ("peft.import_utils", "is_bnb_available"),
        ("peft.import_utils", "is_bnb_4bit_available"),
    ):
        if remembering := getattr(sys.modules.get(module), name, None):
            remembering.cache_clear()
    for package in lean.HEAVY:
        if package != "deepspeed" and sys.modules.get(package, lean) is None:
            del sys.modules[package]


@pytest.fixture(scope="module", autouse=True)
def _as_before() -> Iterator[None]:
    """Undo what trainings set; and spare what is there already the Trainer's garbage collection."""
    gc.freeze()
    yield
    gc.unfreeze()
    if torch := sys.modules.get("torch"):
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh(project: Project) -> Iterator[Project]:
    """The module's `project` without any training."""
    from tiny_project import untrained

    with untrained(project):
        yield project


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Where the results of a test go."""
    return tmp_path / "results"


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """A small finished project; not to be changed, see `small_project`."""
    root = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(root)
    try:
        return SmallProject(root).make_data().make_models().make_answers()
    finally:
        os.chdir(before)


@pytest.fixture
def small_project(
    finished_project: SmallProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SmallProject:
    """A copy of a small finished project of one's own, in the current directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = finished_project.copy_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return project


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
