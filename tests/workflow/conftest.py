"""One finished project for the whole session; tests that change results work on a clone of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workflow.workspace import Workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The mini recipe, built from nothing by a real run; tests restore what they edit."""
    workspace = Workspace.create(tmp_path_factory.mktemp("finished") / "project")
    run = workspace.snakemake("all")
    (workspace.folder / "first-run.log").write_text(run.output)
    return workspace


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
