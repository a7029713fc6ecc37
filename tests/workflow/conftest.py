"""One finished project for the whole session; tests that change results work on a clone of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from filelock import FileLock

from workflow.workspace import Workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workspace:
    """The mini recipe, built from nothing by a real run; tests restore what they edit.

    One test process builds it; others that run beside it take a copy.
    """
    alone = worker_id == "master"
    shared = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent
    folder = shared / "finished" / "project"
    with FileLock(shared / "finished.lock"):
        if not (folder / "first-run.log").exists():
            shutil.rmtree(folder, ignore_errors=True)
            run = Workspace.create(folder).snakemake("all")
            (folder / "first-run.log").write_text(run.output)
    if alone:
        return Workspace(folder)
    return Workspace(folder).clone(tmp_path_factory.mktemp("finished") / "project")


@pytest.fixture
def project(finished: Workspace) -> Iterator[Workspace]:
    """The finished project, for edits of sources and config that are undone afterwards."""
    sources = {
        file: (file.read_bytes(), file.stat())
        for part in ("Snakefile", "rules", "scripts", "config", "mini.yaml")
        for file in _files(finished.path(part))
    }
    yield finished
    for part in ("scripts", "config", "rules"):
        for file in _files(finished.path(part)):
            if file not in sources:
                file.unlink()
    for file, (content, _) in sources.items():
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)


@pytest.fixture
def clone(finished: Workspace, tmp_path) -> Workspace:
    """A copy of the finished project with results of its own."""
    return finished.clone(tmp_path / "project")


def _files(path):
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
